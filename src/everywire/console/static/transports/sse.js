// Server-sent events: the browser's own EventSource reads, and reconnects by itself with Last-Event-ID.

import { chunkBytes, EVENT_STREAM_HEAD_BYTES, eventBytes, requestHeadBytes } from "../bytes.js";
import { Reader, Refusal } from "../reader.js";
import { disconnection } from "./answers.js";

const MAX_REMEMBERED = 1024;

export class ServerSentEvents extends Reader {
  static kind = "sse";
  static title = "Server-sent events";
  static how = "EventSource";
  static curl = (url) => `curl -N -H 'Accept: text/event-stream' '${url}'`;
  #seen = new Set(); // positions, so that what is asked for again is not counted again
  #passed = new Set(); // positions since reading last went back

  async session(signal) {
    let from = this.position;
    while (from !== null) from = await this.#listen(from, signal);
  }

  /** Read until it fails; or resolve with the position to read again from, with more names to listen for. */
  #listen(from, signal) {
    const url = this.course.url(from === undefined ? {} : { after: from });
    const source = new EventSource(url);
    const closing = new AbortController();
    const { ledger } = this.course;
    this.#asked(url);
    return new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => (source.close(), reject(signal.reason)), { signal: closing.signal });
      // EventSource drops events whose name it does not know. A name that another wire brings is learnt,
      // and what was read past it is read again; events seen already are then not counted twice.
      const learn = ({ detail }) => {
        const before = ledger.positionAt(detail.offset - 1);
        source.close();
        if (this.#passed.has(before)) this.#goBack(before);
        resolve(this.position);
      };
      ledger.addEventListener("event-name", learn, { signal: closing.signal });
      for (const name of ["message", "binary", ...ledger.events]) {
        source.addEventListener(name, (event) => this.#take(event));
      }
      source.addEventListener("gap", (event) => this.#gap(event));
      this.#follow(source, url, reject);
    }).finally(() => {
      closing.abort();
      source.close();
    });
  }

  #goBack(position) {
    this.position = position;
    this.#passed.clear();
    this.forgetOrder();
  }

  #follow(source, url, reject) {
    let isAgain = false;
    source.addEventListener("open", (event) => {
      if (event instanceof MessageEvent) return; // an event that the server calls so, not the connection
      if (isAgain) {
        this.cost.reconnects++;
        this.#asked(url);
      }
      this.cost.headerReceived += EVENT_STREAM_HEAD_BYTES;
      this.alive();
    });
    source.addEventListener("error", (event) => {
      if (event instanceof MessageEvent) return reject(disconnection(JSON.parse(event.data)));
      isAgain = true;
      if (source.readyState === EventSource.CLOSED) {
        reject(new Refusal("The server did not answer with an event stream; EventSource does not tell why."));
      } else {
        this.brokenOff("The connection broke off; the browser opens it again by itself.");
      }
    });
  }

  #asked(url) {
    this.requested(requestHeadBytes(url, { Accept: "text/event-stream" }));
  }

  #gap(event) {
    this.#measure(event);
    this.gap(JSON.parse(event.data));
  }

  #take(event) {
    this.#measure(event);
    const position = event.lastEventId;
    const isNew = !this.#seen.has(position);
    remember(this.#seen, position);
    remember(this.#passed, position);
    if (!isNew) return;
    const data = parsed(event.data);
    this.arrived({ position, ...(event.type === "binary" ? data : { data }) }); // binary data comes in an envelope
  }

  #measure(event) {
    const size = eventBytes(event);
    this.cost.payload += size;
    this.cost.headerReceived += chunkBytes(size);
    this.position = event.lastEventId;
  }
}

function remember(set, position) {
  set.add(position);
  if (set.size > MAX_REMEMBERED) set.delete(set.values().next().value);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
