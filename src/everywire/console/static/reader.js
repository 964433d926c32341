// One reader of the channel: its position, its counters, and its life. Each transport extends it.
//
// A transport implements `session(signal)`: read from `this.position` on until the wire breaks (throw or
// return), and tell each arrival. Whatever ends a session, the next one resumes at the position.

import { Ring } from "./ring.js";
import { seriesOf } from "./series.js";
import { sleep } from "./sleep.js";

const MAX_BACKOFF_MS = 15_000;

/** The server said no, in words; `isFinal` when asking again would not help. */
export class Refusal extends Error {
  constructor(words, { isFinal = false, retryMs = 0 } = {}) {
    super(words);
    this.isFinal = isFinal;
    this.retryMs = retryMs;
  }
}

export class Reader {
  state = "idle"; // idle, connecting, live, waiting, paused, stopped
  detail = ""; // what the state comes from, in words
  note = ""; // the last thing worth remembering
  position;
  offset = null; // of the newest publication received
  since = 0; // when reading began or was resumed: older publications are history, their latency means nothing
  data = undefined;
  series = null;
  cost = {
    messages: 0, requests: 0, empty: 0, reconnects: 0, gaps: 0, missed: 0, doubled: 0,
    headerSent: 0, headerReceived: 0, payload: 0,
  };
  points = new Ring(1200); // {time or at, key, a, b, isHistory}: the server's time, or ours while it is unknown
  activity = new Ring(600); // {at, kind: request, empty, message or gap}
  arrivals = new Ring(200); // {time, arrivedAt} of what counts for latency
  offsets = new Ring(200); // as received, for comparing the wires
  #anchor = null; // {index, offset} of the last publication whose offset is known
  #index = 0;
  #failures = 0;
  #running = null; // AbortController
  #nudge = new AbortController();

  constructor(course) {
    this.course = course;
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** How many of the newest messages no other wire has told offset and time of. */
  get unplaced() {
    return this.#anchor ? this.#index - this.#anchor.index : this.#index;
  }

  /** Begin at `position`, with the publications before it drawn as history. */
  prime({ position, publications }) {
    this.position = position;
    const last = publications.at(-1);
    if (last) this.#anchor = { index: 0, offset: (this.offset = last.offset) };
    for (const { time, data } of publications.slice(-120)) {
      this.points.push({ time, isHistory: true, ...this.#read(data) });
    }
  }

  start() {
    if (this.#running) return;
    this.#running = new AbortController();
    this.#failures = 0;
    this.since = this.course.clock.now();
    this.#run(this.#running.signal);
  }

  pause(why = "") {
    this.#stop("paused", why);
  }

  /** Do not wait any longer before trying again. */
  nudge() {
    this.#nudge.abort();
  }

  async #run(signal) {
    this.#become("connecting");
    for (;;) {
      let failure = null;
      try {
        await this.session(signal);
      } catch (error) {
        failure = error;
      }
      if (signal.aborted) return;
      if (failure?.isFinal) return this.#stop("stopped", failure.message);
      await this.#backOff(failure, signal);
      if (signal.aborted) return;
      this.cost.reconnects++;
    }
  }

  async #backOff(failure, signal) {
    const longest = Math.min(MAX_BACKOFF_MS, 500 * 2 ** this.#failures++);
    const delayMs = Math.max(failure?.retryMs ?? 0, longest * (0.5 + Math.random() / 2));
    const words = failure ? failure.message : "The server ended the connection.";
    this.#become("waiting", `${words} Trying again in ${(delayMs / 1000).toFixed(1)} s.`);
    this.#nudge = new AbortController();
    await sleep(delayMs, signal, this.#nudge.signal);
  }

  #stop(state, detail) {
    this.#running?.abort();
    this.#running = null;
    this.#become(state, detail);
  }

  #become(state, detail = "") {
    this.detail = detail;
    if (this.state === state) return;
    this.state = state;
    this.course.stateChanged(this);
  }

  // -- told by the transports ------------------------------------------------

  url(query = {}) {
    return this.course.url(this.position === undefined ? query : { ...query, after: this.position });
  }

  /** A request is on its way, with a head of about this size. */
  requested(headBytes) {
    this.cost.requests++;
    this.cost.headerSent += headBytes;
    this.#mark("request");
  }

  /** The wire works. */
  alive(detail = "") {
    this.#failures = 0;
    this.#become("live", detail);
  }

  /** The server holds the request: all is well as far as one can know. */
  held(detail = "") {
    this.#become("live", detail);
  }

  /** The wire broke, and the browser itself mends it. */
  brokenOff(detail) {
    this.#become("waiting", detail);
  }

  emptyAnswer() {
    this.cost.empty++;
    this.#mark("empty");
  }

  gap({ from, to, reason }) {
    this.cost.gaps++;
    this.#mark("gap");
    this.#anchor = reason === "reset" ? null : { index: this.#index, offset: to };
    if (reason === "reset") {
      this.offset = null;
      this.course.ledger.reset();
    }
    const what = reason === "reset" ? "the channel began anew (reset)" : `${from} to ${to} were ${reason}`;
    this.note = `Gap told: ${what}; reading went on after it.`;
    this.alive();
  }

  /** A publication arrived. Offset and time may be missing; then the ledger is asked by position. */
  arrived(publication) {
    const at = this.course.clock.now();
    const { offset, position } = publication;
    if (offset !== undefined && this.#anchor && offset <= this.#anchor.offset) {
      this.cost.doubled++;
      return;
    }
    const index = ++this.#index;
    const data = "data_base64" in publication ? "(binary)" : publication.data;
    const point = { at, isHistory: false, ...this.#read(data) };
    this.cost.messages++;
    this.data = data;
    this.points.push(point);
    this.#mark("message");
    const known = (entry) => this.#place(index, entry, point, at);
    if (offset === undefined) {
      if (this.offset !== null) this.offset++; // until another wire confirms it
      this.course.ledger.ask(position, known);
    } else {
      known(publication);
      this.course.ledger.tell(position, publication);
    }
  }

  /** Compare with what was expected: no publication may be missing or come twice. */
  #place(index, { offset, time }, point, arrivedAt) {
    const anchor = this.#anchor;
    if (anchor) {
      const surplus = offset - anchor.offset - (index - anchor.index);
      if (surplus > 0) this.cost.missed += surplus;
      if (surplus < 0) this.cost.doubled -= surplus;
    }
    if (!anchor || index > anchor.index) this.#anchor = { index, offset };
    this.offset = this.#anchor.offset + this.#index - this.#anchor.index;
    this.offsets.push(offset);
    if (typeof time !== "number") return;
    point.time = time;
    const { clock } = this.course;
    clock.learnArrival(time, arrivedAt);
    // Browsers slow hidden pages down, which is no property of the wire.
    if (clock.local(time) >= this.since && !document.hidden) this.arrivals.push({ time, arrivedAt });
  }

  /** The latest latencies, by what is known of the clocks now: {at, ms}, oldest first. */
  latencies() {
    const { offset } = this.course.clock;
    return [...this.arrivals].map(({ time, arrivedAt }) => ({ at: time - offset, ms: arrivedAt - time + offset }));
  }

  /** The order was left on purpose (an event asked for again): begin counting anew. */
  forgetOrder() {
    this.#anchor = null;
  }

  #read(data) {
    const series = seriesOf(data);
    if (series) this.series = series;
    return { key: series?.key ?? null, a: series?.a ?? null, b: series?.b ?? null };
  }

  #mark(kind) {
    this.activity.push({ at: this.course.clock.now(), kind });
  }
}
