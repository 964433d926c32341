// Bytes that the browser does not tell, written out as they would be on the wire and counted.
//
// Resource Timing gives the exact size of a body, compressed or not, but for the head of an answer only a
// fixed 300 bytes, and nothing at all about the head of a request or about framing. So heads are built here
// from what is known. Cookies that a script may not see are missing.

const encoder = new TextEncoder();
export const utf8Length = (text) => encoder.encode(text).length;

const BRANDS = (navigator.userAgentData?.brands ?? []).map(({ brand, version }) => `"${brand}";v="${version}"`);

/** The head of a request that this browser sends for `url`. */
export function requestHeadBytes(method, url, fields = {}) {
  const { host, pathname, search } = new URL(url, location.href);
  const all = {
    Host: host,
    Connection: "keep-alive",
    "User-Agent": navigator.userAgent,
    "Accept-Language": navigator.languages.join(",") + ";q=0.9",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Dest": "empty",
    ...(BRANDS.length && {
      "sec-ch-ua": BRANDS.join(", "),
      "sec-ch-ua-mobile": "?0",
      "sec-ch-ua-platform": `"${navigator.userAgentData.platform}"`,
    }),
    ...(document.cookie && { Cookie: document.cookie }),
    ...fields,
  };
  return headBytes(`${method} ${pathname}${search} HTTP/1.1`, Object.entries(all));
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

/** What a WebSocket handshake adds to a request, and the answer to it (RFC 6455 §4). */
export const HANDSHAKE_FIELDS = {
  Connection: "Upgrade",
  Upgrade: "websocket",
  Origin: location.origin,
  "Sec-WebSocket-Version": "13",
  "Sec-WebSocket-Key": "x".repeat(24),
  "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
  "Sec-WebSocket-Protocol": "everywire.json",
};
export const HANDSHAKE_ANSWER_BYTES = headBytes("HTTP/1.1 101 Switching Protocols", [
  ["Upgrade", "websocket"],
  ["Connection", "Upgrade"],
  ["Sec-WebSocket-Accept", "x".repeat(28)],
  ["Sec-WebSocket-Protocol", "everywire.json"],
]);

/** The head of an event stream's answer, which EventSource hides. */
export const EVENT_STREAM_HEAD_BYTES = headBytes("HTTP/1.1 200 OK", [
  ["content-type", "text/event-stream; charset=utf-8"],
  ["cache-control", "private, no-store"],
  ["vary", "Origin, Accept"],
  ["x-accel-buffering", "no"],
  ["date", "x".repeat(29)],
  ["transfer-encoding", "chunked"],
]);

/** One event as the server writes it (WHATWG HTML §9.2.6). */
export function eventBytes({ data, lastEventId, type }) {
  const lines = data.split("\n").length;
  const name = type === "message" ? 0 : "event: \n".length + utf8Length(type);
  return "id: \n\n".length + lastEventId.length + name + utf8Length(data) + lines * "data: ".length + 1;
}
