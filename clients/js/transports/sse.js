// Server-sent events: each reply is the data of an event.
//
// By fetch where it can stream, since that tells why it was refused and carries the connect command in a body. The
// browser's EventSource, which can send nothing but a URL, is for where it cannot; a credential in a URL must be a
// ticket, or a token that lives a minute at most.

import { Ending } from "../errors.js";
import { Events, encode } from "../protocol.js";
import { EmulatedLink } from "./emulated.js";

const PATH = "/connection/sse";

export class SseLink extends EmulatedLink {
  static transport = "sse";
  #source = null;

  static isAvailable(site) {
    return site.canStream || typeof site.EventSource === "function";
  }

  static isCredentialInUrl(site) {
    return !site.canStream;
  }

  open(commands) {
    if (this.site.canStream) this.follow(PATH, "text/event-stream", commands, new Events());
    else this.#listen(commands);
  }

  #listen(commands) {
    const query = new URLSearchParams({ cf_connect: encode(commands) });
    const withCredentials = this.site.credentials === "include";
    const source = new this.site.EventSource(`${this.site.url(PATH)}?${query}`, { withCredentials });
    this.#source = source;
    this.phase = "the request was not answered";
    source.onopen = () => (this.phase = "the answer began, and its body is held back");
    source.onmessage = ({ data }) => {
      try {
        this.take(data);
      } catch (ending) {
        this.end(ending);
      }
    };
    // It would come back by itself, with the same connect command; a new one has to carry positions.
    source.onerror = () => this.end(new Ending("lost", "the event stream failed; EventSource does not tell why"));
  }

  release() {
    super.release();
    this.#source?.close();
  }
}
