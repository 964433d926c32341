// WebSocket: both ways over one connection. A browser does not tell why a handshake failed.

import { Ending } from "../errors.js";
import { decode, takeBatch } from "../protocol.js";
import { Link } from "./link.js";

const PATH = "/connection/websocket";
const NORMAL_CLOSURE = 1000;
const MAX_BUFFERED_BYTES = 4 * 1024 * 1024;

export class WebSocketLink extends Link {
  static transport = "websocket";
  #site;
  #socket;
  #complaint = "";

  constructor(site) {
    super();
    this.#site = site;
  }

  static isAvailable(site) {
    return typeof site.WebSocket === "function";
  }

  open(commands) {
    const socket = new this.#site.WebSocket(this.#site.url(PATH).replace(/^http/, "ws"));
    this.#socket = socket;
    this.phase = "the handshake was not answered";
    let isOpen = false;
    socket.onopen = () => {
      isOpen = true;
      this.phase = "the handshake was answered, and then nothing came";
      this.send(commands);
    };
    socket.onmessage = ({ data }) => this.#take(data);
    // Node's `ws` tells what a browser keeps to itself.
    socket.onerror = ({ message }) => (this.#complaint = message || "");
    socket.onclose = ({ code, reason }) => {
      const why = this.#complaint ? `: ${this.#complaint}` : "";
      this.end(isOpen ? Ending.ofClose(code, reason) : new Ending("blocked", `the handshake failed${why}`));
    };
  }

  #take(data) {
    if (typeof data !== "string") return this.end(new Ending("blocked", "a binary message came"));
    this.phase = "the server answered";
    try {
      this.replied(decode(data));
    } catch (ending) {
      this.end(ending);
    }
  }

  send(commands) {
    const texts = commands.map((command) => JSON.stringify(command));
    while (texts.length) this.#socket.send(takeBatch(texts));
  }

  get isFull() {
    return this.#socket.bufferedAmount > MAX_BUFFERED_BYTES;
  }

  release() {
    const socket = this.#socket;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    // A handshake that is given up complains once more; Node's `ws` throws where nobody listens.
    socket.onerror = () => {};
    socket.close(NORMAL_CLOSURE);
  }
}
