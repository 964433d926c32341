// Where the server is and by what it is reached: what all links of a client share.

import { CLIENT } from "./codes.js";
import { Credential } from "./credential.js";
import { EverywireError } from "./errors.js";
import { Memory, ownStorage } from "./memory.js";
import { LINKS } from "./transports/index.js";

export class Site {
  constructor(url, options) {
    this.base = baseOf(url);
    this.fetch = options.fetch ?? globalThis.fetch?.bind(globalThis);
    // Null is none, also where there is one.
    this.WebSocket = options.WebSocket === undefined ? globalThis.WebSocket : options.WebSocket;
    this.EventSource = options.EventSource === undefined ? globalThis.EventSource : options.EventSource;
    this.headers = options.headers ?? {};
    this.credentials = options.credentials ?? "same-origin";
    this.credential = new Credential(options);
    this.memory = new Memory(options.storage === undefined ? ownStorage() : options.storage, this.base);
    this.links = options.links ?? LINKS;
    if (typeof this.fetch !== "function") throw new EverywireError(CLIENT.BAD_CALL, "there is no fetch here");
  }

  /** Whether answers can be read while they come. */
  get canStream() {
    return typeof TextDecoderStream === "function" && "body" in (globalThis.Response?.prototype ?? {});
  }

  url(path) {
    return this.base + path;
  }
}

/** The address of a server, as it is said: without a slash at its end. */
export function baseOf(url) {
  const found = new URL(url ?? globalThis.location?.origin ?? "", globalThis.location?.href);
  found.protocol = found.protocol.replace(/^ws/, "http");
  found.search = found.hash = "";
  return found.href.replace(/\/+$/, "");
}
