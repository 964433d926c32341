// Proving a transport: it counts as working only after data went both ways, at once.
//
// Three things are asked for: the reply to `connect`; a numbered tick or two behind it, each written on its own (a
// proxy that holds bodies back would let a large reply through and swallow them); and the reply to a `ping` of ours,
// sent the way that all later commands go. A transport that worked here not long ago need not wait for ticks.

import { Ending } from "./errors.js";
import { Session } from "./session.js";
import { after } from "./timing.js";

export class Proof {
  #session;
  #link;
  #settle;
  #startedMs = Date.now();
  #timer;
  #result = null;
  #isAnswered = false;
  #isOver = false;
  #ticks = 0;

  /** @param {object} link one that was not opened yet */
  constructor(link, { timeoutMs, commandTimeoutMs, pingGraceMs }) {
    this.#link = link;
    this.#session = new Session(link, { timeoutMs: commandTimeoutMs, graceMs: pingGraceMs });
    /** Resolves with { session, result }, rejects with an `Ending`. */
    this.done = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.#timer = after(timeoutMs, () => {
      this.#fail(new Ending("blocked", `${this.describe()} within ${timeoutMs / 1000} s`));
    });
  }

  get tookMs() {
    return Date.now() - this.#startedMs;
  }

  /** What is still missing, in words. */
  describe() {
    const { takesPingAtOnce } = this.#link.constructor;
    if (!this.#result) return this.#link.phase;
    if (this.#session.ticks < this.#ticks) {
      return `the reply came, but ${this.#session.ticks} of ${this.#ticks} ticks: the body is held back`;
    }
    return takesPingAtOnce ? "the ping was not answered" : "what is sent does not arrive: the ping was not answered";
  }

  /**
   * @param {object} request the ConnectRequest
   * @param {boolean} [isKnown] whether this transport worked here not long ago
   */
  start(request, isKnown = false) {
    if (this.#isOver) return;
    const { ticks, takesPingAtOnce } = this.#link.constructor;
    this.#ticks = isKnown ? 0 : ticks;
    const connect = { connect: this.#ticks ? { ...request, ticks } : request };
    const ping = [{ ping: {} }, (error) => this.#pinged(error)];
    this.#session.onTick = () => this.#check();
    this.#session.onEnded = (ending) => this.#fail(ending);
    const first = [connect, (error, reply) => this.#connected(error, reply, takesPingAtOnce ? null : ping)];
    this.#session.open(takesPingAtOnce ? [first, ping] : [first]);
  }

  #connected(error, reply, ping) {
    if (error) return this.#fail(error.wasSent && error.code >= 100 ? Ending.ofConnectError(error) : silent(error));
    this.#result = reply.connect;
    if (ping) this.#session.call(...ping);
    this.#check();
  }

  #pinged(error) {
    if (error) return this.#fail(silent(error));
    this.#isAnswered = true;
    this.#check();
  }

  #check() {
    if (this.#isOver || !this.#result || !this.#isAnswered || this.#session.ticks < this.#ticks) return;
    this.#finish();
    this.#session.client = this.#result.client ?? "";
    this.#settle.resolve({ session: this.#session, result: this.#result });
  }

  #fail(ending) {
    if (this.#isOver) return;
    this.#finish();
    this.#session.close(ending);
    this.#settle.reject(ending);
  }

  #finish() {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }

  /** Let go: another was there first, nobody wants it any more, or there is no request to send. */
  cancel(ending = new Ending("late", `${this.describe()} in ${(this.tookMs / 1000).toFixed(1)} s`)) {
    this.#fail(ending);
  }
}

function silent(error) {
  return new Ending("lost", error.message);
}
