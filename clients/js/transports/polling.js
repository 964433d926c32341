// Long polling and polling: each request is a session of its own life, and says again what is followed.
//
// `POST /connection/poll?wait=25` (docs/protocol-sessions.md). To the rest of the client it looks as if one session
// went on: see following.js. One request is held; commands go by others beside it, one at a time. When held requests
// are cut, they are made shorter; when they are cut even so, or cannot be made, the link ends.

import { Ending } from "../errors.js";
import { decode, encode } from "../protocol.js";
import { Alarm } from "../timing.js";
import { Following } from "./following.js";
import { Link } from "./link.js";
import { Lane, REQUEST_TIMEOUT_MS, post, withDeadline } from "./requests.js";

const PATH = "/connection/poll";
const ACCEPT = "application/x-ndjson";
const WAIT_S = 25;
const POLL_INTERVAL_MS = 2_000;
/** Held requests that lived at least so long before they broke were cut by a clock; a shorter wait helps. */
const MIN_CUT_MS = 1_000;
const MAX_FAILURES = 3;
/** Ids of what the link asks by itself; those of the session's commands begin at 1. */
const FIRST_OWN_ID = 2 ** 31;
/** Between two answers that came at once and told nothing. */
const IDLE_MS = 1_000;

export class LongPollLink extends Link {
  static transport = "long-poll";

  /** @protected How long a request may be held, in seconds; 0: not at all. */
  waitS = WAIT_S;
  #site;
  #following = new Following();
  #lane = new Lane((text) => this.#carry(text), (error) => this.end(error));
  #requests = new AbortController();
  #held = null;
  #isLive = false;
  #isChanged = false;
  #wake = () => {};
  #rest = new Alarm();
  #connect = null;
  #session = "";
  #refreshId = 0;
  #failures = 0;
  #nextId = FIRST_OWN_ID;

  static isAvailable() {
    return true;
  }

  constructor(site) {
    super();
    this.#site = site;
  }

  open(commands) {
    this.#connect = commands[0].connect;
    this.phase = "the request was not answered";
    this.#ask(commands, 0, this.#requests.signal).then(
      ({ replies }) => this.#opened(replies, commands[0].id),
      (error) => this.end(error),
    );
  }

  #opened(replies, connectId) {
    this.phase = "the server answered";
    for (const reply of replies) {
      if (reply.id !== connectId || !reply.connect) continue;
      this.#session = reply.connect.session ?? "";
      this.#following.connected(reply.connect);
    }
    this.replied(replies);
  }

  /** This link was chosen: follow from here on. */
  async live() {
    this.#isLive = true;
    while (!this.isOver) {
      this.#isChanged = false;
      try {
        const restMs = await this.#poll();
        if (!this.#isChanged && restMs > 0) await this.#pause(restMs);
      } catch (error) {
        this.end(error);
      }
    }
  }

  send(commands) {
    const others = [];
    let isChanged = false;
    for (const command of commands) {
      const { subscribe, unsubscribe, refresh, sub_refresh: subRefresh } = command;
      if (subscribe) this.#following.add(command);
      else if (unsubscribe) this.#following.remove(unsubscribe.channel);
      else if (refresh) this.#refreshId = command.id;
      else if (subRefresh) this.#following.refresh(command);
      isChanged ||= Boolean(subscribe || unsubscribe || refresh || subRefresh);
      const isPong = Object.keys(command).length === 0;
      if (!subscribe && !refresh && !subRefresh && !isPong) others.push(command);
    }
    if (others.length) this.#lane.push(others);
    if (isChanged) this.#changed();
  }

  get isFull() {
    return this.#lane.isFull;
  }

  /** What is followed is another: a request that is held has to be asked anew. */
  #changed() {
    this.#isChanged = true;
    this.#held?.abort();
    this.#wake();
  }

  /** Ask once; return how long to rest afterwards. */
  async #poll() {
    const held = new AbortController();
    const { signal } = this.#requests;
    this.#held = held;
    const abort = () => held.abort();
    signal.addEventListener("abort", abort);
    const startedMs = Date.now();
    try {
      const connect = await this.#reconnect();
      // A reply that tells nothing new would be held back with the request.
      const waitS = this.#following.isAwaited || this.#refreshId ? 0 : this.waitS;
      const commands = [connect, ...this.#following.commands(() => this.#nextId++)];
      const answer = await this.#ask(commands, waitS, held.signal);
      this.#failures = 0;
      const isTold = this.#told(answer.replies, connect.id);
      return waitS < this.waitS ? 0 : this.#restAfter(answer, isTold, Date.now() - startedMs);
    } catch (error) {
      // Nothing is lost with an answer that did not come: the next request asks from the same positions.
      if (held.signal.aborted) return 0;
      return this.#restAfterFailure(error, Date.now() - startedMs);
    } finally {
      signal.removeEventListener("abort", abort);
      this.#held = null;
    }
  }

  #restAfter({ hintMs }, isTold, tookMs) {
    if (!this.waitS) return hintMs ?? POLL_INTERVAL_MS;
    if (hintMs !== undefined) return hintMs;
    return isTold || tookMs >= IDLE_MS ? 0 : IDLE_MS;
  }

  #restAfterFailure(error, tookMs) {
    const mayGoOn = error instanceof Ending && error.kind === "lost" && !error.isServers;
    this.#failures += 1;
    if (!mayGoOn || this.#failures > MAX_FAILURES) throw error;
    if (this.waitS && tookMs >= MIN_CUT_MS) {
      this.waitS = Math.max(1, Math.min(this.waitS - 1, Math.floor((tookMs / 1000) * 0.7)));
      return 0;
    }
    // A connection that was kept alive may have ended just now; asking again once costs little.
    if (this.#failures > 1) throw error;
    return 0;
  }

  /** The connect command that begins every request. */
  async #reconnect() {
    const token = await this.#site.credential.forConnect();
    const request = { ...this.#connect, subs: this.#following.positions() };
    if (token) request.token = token;
    if (this.#session) request.session = this.#session;
    return { id: this.#nextId++, connect: request };
  }

  /** Hand on what an answer tells; false when it tells nothing. */
  #told(replies, connectId) {
    const told = replies.flatMap((reply) => {
      return reply.id === connectId ? this.#reconnected(reply) : this.#following.take(reply);
    });
    this.replied(told);
    return told.length > 0;
  }

  #reconnected({ connect, error }) {
    if (error) throw Ending.ofConnectError(error);
    this.#session = connect.session ?? this.#session;
    const told = this.#following.connected(connect);
    if (this.#refreshId) {
      const { client, version, expires, ttl } = connect;
      told.push({ id: this.#refreshId, refresh: { client, version, expires, ttl } });
      this.#refreshId = 0;
    }
    return told;
  }

  /** Carry commands beside the request that is held. */
  async #carry(text) {
    const connect = await this.#reconnect();
    delete connect.connect.subs;
    const { replies } = await this.#ask([connect], 0, this.#requests.signal, `\n${text}`);
    const refusal = replies.find(({ id, error }) => id === connect.id && error);
    if (refusal) throw Ending.ofConnectError(refusal.error);
    this.replied(replies.filter(({ id }) => id !== connect.id));
  }

  async #ask(commands, waitS, aborting, more = "") {
    const path = waitS ? `${PATH}?wait=${waitS}` : PATH;
    return withDeadline(waitS * 1000 + REQUEST_TIMEOUT_MS, aborting, async (signal) => {
      const response = await post(this.#site, path, encode(commands) + more, { accept: ACCEPT, signal });
      const replies = decode(await response.text());
      const hint = response.headers.get("retry-after");
      return { replies, hintMs: /^\d+$/.test(hint ?? "") ? Number(hint) * 1000 : undefined };
    });
  }

  #pause(restMs) {
    return new Promise((resolve) => {
      this.#wake = resolve;
      this.#rest.set(restMs, resolve);
    });
  }

  /** Leave: without a word others would see this client in its channels until its time has run out. */
  close() {
    const channels = this.#following.channels;
    if (!this.isOver && this.#isLive && channels.length) this.#sayGoodbye(channels).catch(() => {});
    super.close();
  }

  async #sayGoodbye(channels) {
    const connect = await this.#reconnect();
    const leaving = channels.map((channel) => ({ id: this.#nextId++, unsubscribe: { channel } }));
    const limit = new AbortController();
    await this.#ask([connect, ...leaving], 0, limit.signal);
  }

  release() {
    this.#requests.abort();
    this.#rest.clear();
    this.#wake();
  }
}

export class PollLink extends LongPollLink {
  static transport = "poll";
  waitS = 0;
}
