// The transports by name, the best first.

import { LongPollLink, PollLink } from "./polling.js";
import { StreamLink } from "./http_stream.js";
import { SseLink } from "./sse.js";
import { WebSocketLink } from "./websocket.js";

export const LINKS = new Map(
  [WebSocketLink, StreamLink, SseLink, LongPollLink, PollLink].map((link) => [link.transport, link]),
);

export const TRANSPORTS = Object.freeze([...LINKS.keys()]);
