// What the streams have in common: replies come as an answer that does not end, commands go by other requests.
//
// `POST /emulation` takes the text of the commands with the session and node that the connect reply named. They go
// one request at a time, so that they keep their order. One that fails may have been carried out or not: the link
// ends then, and whoever waits for a reply is told.

import { Ending } from "../errors.js";
import { decode, encode } from "../protocol.js";
import { Link } from "./link.js";
import { Lane, REQUEST_TIMEOUT_MS, post, withDeadline } from "./requests.js";

const EMULATION_PATH = "/emulation";
/** A proxy that is always one chunk behind would show the first tick, and hold the second. */
const TICKS = 2;

export class EmulatedLink extends Link {
  static ticks = TICKS;
  static takesPingAtOnce = false;

  #session = "";
  #node = "";
  #lane = new Lane((text) => this.#carry(text), (error) => this.end(error));
  /** @protected Ends all requests of this link. */
  requests = new AbortController();

  constructor(site) {
    super();
    /** @protected */
    this.site = site;
  }

  send(commands) {
    this.#lane.push(commands);
  }

  get isFull() {
    return this.#lane.isFull;
  }

  async #carry(text) {
    const body = JSON.stringify({ session: this.#session, node: this.#node, data: text });
    await withDeadline(REQUEST_TIMEOUT_MS, this.requests.signal, async (signal) => {
      const response = await post(this.site, EMULATION_PATH, body, { signal });
      await response.text();
    });
  }

  /** @protected Take the text of some replies. */
  take(text) {
    const replies = decode(text);
    for (const { connect } of replies) {
      if (connect) ({ session: this.#session = "", node: this.#node = "" } = connect);
    }
    this.phase = "the server answered";
    this.replied(replies);
  }

  /** @protected Read an answer that does not end; `parser` makes whole texts of the pieces. */
  async follow(path, accept, commands, parser) {
    const { signal } = this.requests;
    this.phase = "the request was not answered";
    try {
      const response = await post(this.site, path, encode(commands), { accept, signal });
      this.phase = "the answer began, and its body is held back";
      await this.#read(response.body.pipeThrough(new TextDecoderStream()).getReader(), parser);
      this.end(new Ending("lost", "the answer ended"));
    } catch (error) {
      const why = error?.message ?? error;
      this.end(error instanceof Ending ? error : new Ending("lost", `the answer broke off (${why})`));
    }
  }

  async #read(reader, parser) {
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      for (const text of parser.take(piece.value)) this.take(text);
    }
  }

  release() {
    this.requests.abort();
  }
}
