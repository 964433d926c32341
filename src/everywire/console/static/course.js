// What the five readers share: channel, clock, ledger, the poll interval, and where the race begins.

import { Clock } from "./clock.js";
import { Ledger } from "./ledger.js";
import { request } from "./transports/answers.js";

const PAGE = 1000;

/** How often to poll: what the server hints, until the slider is moved. */
class Interval extends EventTarget {
  ms = 2000;
  isOwn = false;
  #hintMs = 2000;

  hint(ms) {
    if (ms === this.#hintMs) return;
    this.#hintMs = ms;
    if (!this.isOwn) this.#set(ms);
  }

  choose(ms) {
    this.isOwn = true;
    this.#set(ms);
  }

  useHint() {
    this.isOwn = false;
    this.#set(this.#hintMs);
  }

  #set(ms) {
    this.ms = ms;
    this.dispatchEvent(new Event("change"));
  }
}

export class Course extends EventTarget {
  clock = new Clock();
  ledger = new Ledger();
  interval = new Interval();

  constructor(channel) {
    super();
    this.channel = channel;
  }

  /** The channel's address with a query. */
  url(query = {}) {
    const search = new URLSearchParams(query).toString();
    const path = `channels/${encodeURIComponent(this.channel)}${search && `?${search}`}`;
    return new URL(path, new URL("./", location.href)).href; // the page may be below a path, in an application
  }

  stateChanged(reader) {
    this.dispatchEvent(new CustomEvent("state", { detail: reader }));
  }

  /** Ask for the window once: all wires begin at its end, and its publications are drawn as history. */
  async begin() {
    let start = await this.#get({});
    // A window in several pages is not worth reading for its history: begin at the end of it.
    if (start.publications.length >= PAGE) start = await this.#get({ after: "latest" });
    const last = start.publications.at(-1);
    start.publications.forEach((publication) => this.ledger.tell(undefined, publication));
    if (last) this.ledger.tell(start.position, last);
    return start;
  }

  async #get(query) {
    const sent = this.clock.now();
    const response = await request(this.url(query), {
      headers: { Accept: "application/json" },
      cache: "no-store",
    });
    this.clock.learnRoundTrip(this.clock.now() - sent);
    const hint = Number(response.headers.get("retry-after"));
    if (hint > 0) this.interval.hint(hint * 1000);
    return response.json();
  }
}
