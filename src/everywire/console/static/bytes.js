// Bytes that the browser does not tell, written out as they would be on the wire and counted.
//
// Resource Timing gives the exact size of a body, compressed or not, but for the head of an answer only a
// fixed 300 bytes, and nothing at all about the head of a request or about framing. So heads are built here
// from what is known. Cookies that a script may not see are missing.

const encoder = new TextEncoder();
export const utf8Length = (text) => encoder.encode(text).length;

const { userAgentData } = navigator;
const BRANDS = (userAgentData?.brands ?? []).map(({ brand, version }) => `"${brand}";v="${version}"`);

/** Fields of every request of this page; none of its readers wants an answer from the cache. */
function commonFields() {
  return {
    Host: location.host,
    Connection: "keep-alive",
    Pragma: "no-cache",
    "Cache-Control": "no-cache",
    "User-Agent": navigator.userAgent,
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": `${navigator.languages.join(",")};q=0.9`,
    ...(document.cookie && { Cookie: document.cookie }),
  };
}

/** Fields that fetch and EventSource add and a WebSocket does not. */
const FETCH_FIELDS = {
  "Sec-Fetch-Site": "same-origin",
  "Sec-Fetch-Mode": "cors",
  "Sec-Fetch-Dest": "empty",
  ...(BRANDS.length && {
    "sec-ch-ua": BRANDS.join(", "),
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": `"${userAgentData.platform}"`,
  }),
};

/** The head of a GET that this browser sends by fetch or EventSource. */
export function requestHeadBytes(url, fields) {
  return getBytes(url, { ...commonFields(), ...FETCH_FIELDS, ...fields });
}

/** The head of a WebSocket's opening handshake (RFC 6455 §4.1). */
export function handshakeBytes(url, subprotocol) {
  return getBytes(url, {
    ...commonFields(),
    Connection: "Upgrade",
    Upgrade: "websocket",
    Origin: location.origin,
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "x".repeat(24),
    "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
    "Sec-WebSocket-Protocol": subprotocol,
  });
}

/** The answer to it (RFC 6455 §4.2.2). */
export function handshakeAnswerBytes(subprotocol) {
  return headBytes("HTTP/1.1 101 Switching Protocols", [
    ["Upgrade", "websocket"],
    ["Connection", "Upgrade"],
    ["Sec-WebSocket-Accept", "x".repeat(28)],
    ["Sec-WebSocket-Protocol", subprotocol],
    ["date", "x".repeat(29)],
  ]);
}

function getBytes(url, fields) {
  const { pathname, search } = new URL(url, location.href);
  return headBytes(`GET ${pathname}${search} HTTP/1.1`, Object.entries(fields));
}

/** The head of an answer, from the fields that a script may read. */
export function responseHeadBytes(response) {
  return headBytes(`HTTP/1.1 ${response.status} ${response.statusText || "OK"}`, response.headers);
}

function headBytes(firstLine, fields) {
  let bytes = firstLine.length + 4;
  for (const [name, value] of fields) bytes += name.length + 2 + utf8Length(value) + 2;
  return bytes;
}

/** Chunked encoding around `size` bytes of body (RFC 9112 §7.1). */
export const chunkBytes = (size) => (size === 0 ? 0 : size.toString(16).length + 4);

/** The header of a server's WebSocket frame (RFC 6455 §5.2): servers do not mask. */
export const frameBytes = (size) => (size < 126 ? 2 : size < 65536 ? 4 : 10);

/** The head of an event stream's answer, which EventSource hides. */
export const EVENT_STREAM_HEAD_BYTES = headBytes("HTTP/1.1 200 OK", [
  ["content-type", "text/event-stream"],
  ["cache-control", "private, no-store, no-transform"],
  ["x-accel-buffering", "no"],
  ["vary", "Origin, Accept"],
  ["x-content-type-options", "nosniff"],
  ["date", "x".repeat(29)],
  ["transfer-encoding", "chunked"],
]);

/** One event as the server writes it (WHATWG HTML §9.2.6). */
export function eventBytes({ data, lastEventId, type }) {
  const lines = data.split("\n").length;
  const name = type === "message" ? 0 : "event: \n".length + utf8Length(type);
  return "id: \n\n".length + lastEventId.length + name + utf8Length(data) + lines * "data: ".length + 1;
}
