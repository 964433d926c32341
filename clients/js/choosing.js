// Choosing the transport: candidates race, and the first that has proven itself wins.
//
// The best begins at once, each further one a head start later, or as soon as the one before it failed. What the
// server itself says (busy, a newer token, never again) ends the race: it would say the same on every transport, and
// falling back at overload is what brings servers down. Where there is no HTTP answer at all, the other streams are
// left out: a server that is down is not to be asked five times by everybody.

import { Ending } from "./errors.js";

const STREAMS = ["http_stream", "sse"];
const POLLS = ["long-poll", "poll"];

/** Put what worked last in front. */
export function order(names, last) {
  return names.includes(last) ? [last, ...names.filter((name) => name !== last)] : [...names];
}

export class Race {
  #waiting;
  #begin;
  #note;
  #headStartMs;
  #racing = new Map();
  #endings = [];
  #timer;
  #settle;

  /**
   * @param {string[]} names candidates, the best first
   * @param {(name: string) => Proof} begin starts one
   * @param {(attempt: object) => void} note hears how each attempt ended
   */
  constructor(names, begin, { headStartMs, note }) {
    this.#waiting = [...names];
    this.#begin = begin;
    this.#note = note;
    this.#headStartMs = headStartMs;
    /** Resolves with { session, result }, rejects with an `Ending`. */
    this.done = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.#next();
  }

  #next() {
    clearTimeout(this.#timer);
    const name = this.#waiting.shift();
    if (name !== undefined) {
      const proof = this.#begin(name);
      this.#racing.set(name, proof);
      proof.done.then((won) => this.#won(name, proof, won), (ending) => this.#lost(name, proof, ending));
      if (this.#waiting.length) this.#timer = setTimeout(() => this.#next(), this.#headStartMs);
    } else if (!this.#racing.size) {
      this.#over().reject(this.#verdict());
    }
  }

  #won(name, proof, won) {
    if (!this.#racing.delete(name)) return won.session.close();
    this.#tell(name, proof, "won", "data went both ways");
    this.#over().resolve(won);
  }

  #lost(name, proof, ending) {
    this.#tell(name, proof, ending.kind, ending.reason);
    if (!this.#racing.delete(name)) return;
    this.#endings.push(ending);
    if (ending.isServers || ending.kind === "cancelled") return this.#over().reject(ending);
    if (ending.isUnreachable) this.#leaveOut(STREAMS.includes(name) ? STREAMS : POLLS);
    this.#next();
  }

  #leaveOut(names) {
    this.#waiting = this.#waiting.filter((name) => !names.includes(name));
  }

  #tell(transport, { tookMs }, outcome, reason) {
    this.#note({ transport, outcome, reason, tookMs });
  }

  /** Nobody goes on. */
  #over() {
    clearTimeout(this.#timer);
    this.#waiting = [];
    const racing = [...this.#racing.values()];
    this.#racing.clear();
    for (const proof of racing) proof.cancel();
    return this.#settle;
  }

  #verdict() {
    const hints = this.#endings.map(({ retryAfterMs }) => retryAfterMs).filter((hint) => hint !== undefined);
    const reason = this.#endings.map(({ reason }) => reason).join("; ") || "there is no transport to try";
    return new Ending("lost", reason, { retryAfterMs: hints.length ? Math.max(...hints) : undefined });
  }

  /** Give it up. */
  cancel() {
    this.#over().reject(new Ending("cancelled", "nobody wants it any more"));
  }
}
