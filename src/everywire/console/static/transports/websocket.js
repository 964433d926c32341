// WebSocket with the subprotocol everywire.json: an envelope for each publication, with its position.

import { frameBytes, handshakeAnswerBytes, handshakeBytes, utf8Length } from "../bytes.js";
import { Reader, Refusal } from "../reader.js";
import { disconnection } from "./answers.js";

const SUBPROTOCOL = "everywire.json";

export class WebSocketReader extends Reader {
  static kind = "websocket";
  static title = "WebSocket";
  static how = "subprotocol everywire.json";
  static curl = (url, channel) => `everywire subscribe ${url.split("/channels/")[0]} '${channel}' --transport websocket`;

  session(signal) {
    const url = new URL(this.url(), location.href);
    this.requested(handshakeBytes(url, SUBPROTOCOL));
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, SUBPROTOCOL);
    const closing = new AbortController();
    // Nothing may arrive from this socket once the session is over: the next one resumes at the position.
    const during = { signal: closing.signal };
    return new Promise((resolve, reject) => {
      signal.addEventListener("abort", () => (closing.abort(), reject(signal.reason)), during);
      socket.addEventListener("open", () => this.#opened(), during);
      socket.addEventListener("message", ({ data }) => this.#take(data, reject), during);
      socket.addEventListener("close", (event) => reject(refusal(event)), during);
    }).finally(() => {
      closing.abort();
      socket.close();
    });
  }

  #opened() {
    this.cost.headerReceived += handshakeAnswerBytes(SUBPROTOCOL);
    this.alive();
  }

  #take(message, reject) {
    const size = utf8Length(message);
    this.cost.payload += size;
    this.cost.headerReceived += frameBytes(size);
    const envelope = JSON.parse(message);
    if (envelope.disconnect) reject(disconnection(envelope.disconnect));
    else if (envelope.gap) this.gap(envelope.gap);
    else if ("offset" in envelope) this.arrived(envelope);
    if (envelope.position !== undefined) this.position = envelope.position;
  }
}

function refusal({ code, reason }) {
  if (code === 1006) return new Refusal("The connection was not made or broke off; the browser does not tell why.");
  // 3500 to 3999 end a connection for good, as does a violated policy (1008).
  const isFinal = code === 1008 || (code >= 3500 && code < 4000);
  return new Refusal(`The server closed the WebSocket (${code}${reason ? `, ${reason}` : ""}).`, { isFinal });
}
