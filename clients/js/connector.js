// Keeps one session alive: chooses a transport, comes back when it is lost, climbs to a better one.
//
//   idle ──start──▶ racing ──won──▶ open ──lost──▶ waiting ──time, online, visible──▶ racing …
//                     └── failed ──▶ waiting        any ── stop, terminal code ──▶ idle
//
// After a loss only the transport that worked is tried, once: a server that restarts is not asked by every transport
// of every client. When that fails, all race. "Busy" is not held against a transport. A better one is tried now and
// then while a lesser one works; the session moves when the new one has proven itself (moving.js).

import { Backoff } from "./backoff.js";
import { Race, order } from "./choosing.js";
import { CLIENT } from "./codes.js";
import { endingOf } from "./credential.js";
import { Ending, EverywireError } from "./errors.js";
import { Moving } from "./moving.js";
import { Proof } from "./proving.js";
import { Strikes } from "./strikes.js";
import { Alarm } from "./timing.js";
import { isHidden } from "./wakeups.js";

const MAX_ATTEMPTS_KEPT = 50;
const MAX_PROOF_MS = 20_000;
/** A session that lived so long was a success. */
const MIN_LIFE_MS = 2_000;
/** Between two attempts that `online` and the like bring forward. */
const MIN_WAKE_MS = 1_000;
const CLIMB_GROWTH = 3;
const MAX_CLIMB_MS = 600_000;

export class Connector {
  #site;
  #options;
  #host;
  #names;
  #backoff;
  #strikes = new Strikes();
  #race = null;
  #retry = new Alarm();
  #notBeforeMs = 0;
  #wokeAtMs = 0;
  /** The transport that worked last, or is to be tried first. */
  #last;
  #isLastKnown = false;
  #isNarrow = false;
  #renewals = 0;
  #climb = new Alarm();
  #climbs = 0;
  #moving = null;
  #isWanted = false;

  session = null;
  /** What was tried, the latest last. */
  attempts = [];

  /**
   * @param {object} site where the server is, and by what it is reached
   * @param {object} options
   * @param {object} host connectRequest(), opened(session, result), pushed(push, session), closed(ending, retryMs),
   *   moving(session, result, done), moved(session)
   */
  constructor(site, options, host) {
    this.#site = site;
    this.#options = options;
    this.#host = host;
    this.#names = options.transports.filter((name) => site.links.get(name).isAvailable(site));
    if (!this.#names.length) {
      const message = `none of these transports can be had here: ${options.transports.join(", ")}`;
      throw new EverywireError(CLIENT.BAD_CALL, message);
    }
    this.#backoff = new Backoff({ minMs: options.minReconnectMs, maxMs: options.maxReconnectMs });
  }

  start() {
    if (this.#isWanted) return;
    this.#isWanted = true;
    if (!this.#last) {
      this.#last = this.#site.memory.recall();
      this.#isLastKnown = true;
    }
    this.#attempt();
  }

  stop(ending) {
    if (!this.#isWanted) return;
    this.#isWanted = false;
    this.#stopAttempts(ending);
    this.session?.close(ending);
    this.session = null;
  }

  #stopAttempts(ending) {
    this.#retry.clear();
    this.#climb.clear();
    const race = this.#race;
    this.#race = null;
    race?.cancel();
    const moving = this.#moving;
    this.#moving = null;
    moving?.cancel(ending);
  }

  // -- making a connection -----------------------------------------------------------------

  #candidates() {
    const names = this.#strikes.sort(this.#names);
    const ordered = this.#strikes.has(this.#last) ? names : order(names, this.#last);
    return this.#isNarrow ? ordered.slice(0, 1) : ordered;
  }

  #attempt() {
    this.#retry.clear();
    this.#run(this.#candidates(), "connect").then(
      ({ session, result }) => this.#opened(session, result),
      (ending) => ending.kind !== "cancelled" && this.#failed(ending),
    );
  }

  async #run(names, purpose) {
    const { headStartMs, proofTimeoutMs } = this.#options;
    const timeoutMs = Math.min(MAX_PROOF_MS, proofTimeoutMs * 1.5 ** this.#backoff.failures);
    const note = (attempt) => this.#note({ ...attempt, purpose, at: Date.now() });
    const race = new Race(names, (name) => this.#begin(name, timeoutMs), { headStartMs, note });
    this.#race = race;
    try {
      return await race.done;
    } finally {
      if (this.#race === race) this.#race = null;
    }
  }

  #begin(name, timeoutMs) {
    const link = new (this.#site.links.get(name))(this.#site);
    const proof = new Proof(link, { ...this.#options, timeoutMs });
    const { credential } = this.#site;
    const isKnown = this.#isLastKnown && name === this.#last;
    credential.forConnect({ isInUrl: link.constructor.isCredentialInUrl(this.#site) }).then(
      (token) => proof.start({ ...(token && { token }), ...this.#host.connectRequest() }, isKnown),
      (error) => proof.cancel(endingOf(error)),
    );
    return proof;
  }

  #note(attempt) {
    this.attempts.push(attempt);
    if (this.attempts.length > MAX_ATTEMPTS_KEPT) this.attempts.shift();
    this.#host.attempted(attempt);
  }

  #opened(session, result) {
    if (!this.#isWanted) return session.close();
    this.#renewals = 0;
    this.#notBeforeMs = 0;
    this.#take(session);
    this.#host.opened(session, result);
    this.#adopt(session, result);
    this.#climbs = 0;
    this.#planClimb();
  }

  #take(session) {
    this.session = session;
    this.#last = session.transport;
    this.#isLastKnown = true;
    this.#isNarrow = false;
    this.#site.memory.remember(session.transport);
  }

  #adopt(session, result) {
    session.adopt({
      push: (push) => this.#host.pushed(push, session),
      ended: (ending) => this.#ended(session, ending),
    }, result);
  }

  // -- losing it -----------------------------------------------------------------------------

  #ended(session, ending) {
    if (this.#moving?.lost(session)) return;
    if (session !== this.session) return;
    this.session = null;
    const lifeMs = Date.now() - session.openedAtMs;
    if (lifeMs >= MIN_LIFE_MS) this.#backoff.succeeded();
    this.#strikes.lived(session.transport, lifeMs >= MIN_LIFE_MS || ending.isServers);
    this.#isNarrow = true;
    this.#stopAttempts(ending);
    this.#failed(ending);
  }

  #failed(ending) {
    if (!this.#isWanted) return;
    const { credential } = this.#site;
    if (ending.kind === "expired") {
      if (!credential.canRenew) return this.#terminate(ending);
      credential.drop();
    } else if (ending.kind === "refused") {
      return this.#terminate(ending);
    } else if (ending.kind === "busy") {
      this.#isNarrow = true;
    } else if (this.#backoff.failures > 0) {
      this.#isNarrow = false;
    }
    // A token that is too old is replaced at once, the first time.
    const isRenewal = ending.kind === "expired" && this.#renewals++ === 0;
    const hintMs = ending.retryAfterMs ?? (ending.kind === "busy" ? this.#options.busyMs : undefined);
    const retryMs = isRenewal ? 0 : this.#backoff.next(hintMs);
    if (ending.retryAfterMs !== undefined) this.#notBeforeMs = Date.now() + retryMs;
    this.#retry.set(retryMs, () => this.#attempt());
    this.#host.closed(ending, retryMs);
  }

  #terminate(ending) {
    this.stop(ending);
    this.#host.closed(ending, undefined);
  }

  /** Something changed: see at once whether the connection lives, or try at once to make one. */
  wake(name) {
    if (!this.#isWanted) return;
    if (this.session) {
      this.session.check();
      if (name === "online") this.#planClimb((this.#climbs = 0));
    } else if (this.#retry.isSet) {
      const nowMs = Date.now();
      if (nowMs < this.#notBeforeMs || nowMs - this.#wokeAtMs < MIN_WAKE_MS) return;
      this.#wokeAtMs = nowMs;
      this.#attempt();
    }
  }

  /** Drop the connection, if there is one, and make a new one at once: on `transport`, if it is named. */
  reconnect(transport) {
    if (!this.#isWanted) return;
    if (transport) {
      this.#strikes.forgive(transport);
      this.#isLastKnown &&= transport === this.#last;
      this.#last = transport;
    }
    const ending = new Ending("lost", "a new connection was asked for");
    this.#stopAttempts(ending);
    this.session?.close(ending);
    if (this.session) this.#host.closed(ending, 0);
    this.session = null;
    this.#isNarrow = Boolean(transport);
    this.#attempt();
  }

  // -- climbing ---------------------------------------------------------------------------------

  #better() {
    const names = this.#strikes.sort(this.#names);
    return names.slice(0, Math.max(0, names.indexOf(this.session?.transport)));
  }

  #planClimb() {
    this.#climb.clear();
    if (!this.#better().length || !this.#options.climbMs) return;
    const delayMs = Math.min(MAX_CLIMB_MS, this.#options.climbMs * CLIMB_GROWTH ** Math.min(this.#climbs, 10));
    this.#climb.set(delayMs * (0.8 + 0.4 * Math.random()), () => this.climb());
  }

  /** Try the better transports now, and move to one that works. */
  climb() {
    const names = this.#better();
    if (!names.length || this.#race || this.#moving) return;
    this.#climbs += 1;
    if (isHidden()) return this.#planClimb();
    this.#run(names, "climb").then(
      ({ session, result }) => this.#move(session, result),
      (ending) => ending.kind !== "cancelled" && this.session && this.#planClimb(),
    );
  }

  #move(session, result) {
    const old = this.session;
    if (!this.#isWanted || !old) return session.close();
    this.#moving = new Moving(old, session, {
      moved: () => {
        this.#moving = null;
        this.#take(session);
        this.#host.moved(session, old);
        this.#climbs = 0;
        this.#planClimb();
      },
      failed: (ending) => {
        this.#moving = null;
        this.#ended(old, ending);
      },
    });
    const moving = this.#moving;
    this.#host.moving(session, result, () => moving.done());
    this.#adopt(session, result);
  }
}
