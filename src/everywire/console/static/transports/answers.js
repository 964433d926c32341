// One JSON answer: what poll and long poll share, and refusals in words, which every fetch shares.

import { requestHeadBytes, responseHeadBytes } from "../bytes.js";
import { Refusal } from "../reader.js";
import { expectSize } from "../sizes.js";

const HELD_AFTER_MS = 800;
export const STARVED_AFTER_MS = 5_000;
const decoder = new TextDecoder();

/** Ask once from the reader's position; true when the answer brought publications. */
export async function ask(reader, query, { signal, etag, patienceMs = 0 } = {}) {
  const url = reader.url(query);
  const fields = { Accept: "application/json", ...(etag && { "If-None-Match": etag }) };
  reader.requested(requestHeadBytes(url, fields));
  const sent = reader.course.clock.now();
  const timers = [
    setTimeout(() => patienceMs > 0 && reader.held(), HELD_AFTER_MS),
    setTimeout(() => reader.held(STARVED), patienceMs + STARVED_AFTER_MS),
  ];
  let response, body;
  try {
    response = await request(url, { headers: fields, cache: "no-store", signal });
    body = new Uint8Array(await response.arrayBuffer());
  } finally {
    timers.forEach(clearTimeout);
  }
  const { cost } = reader;
  if (patienceMs === 0) reader.course.clock.learnRoundTrip(reader.course.clock.now() - sent);
  cost.headerReceived += responseHeadBytes(response);
  cost.payload += body.length;
  expectSize(url, body.length, (difference) => (cost.payload += difference));
  reader.alive();
  const publications = response.status === 304 ? [] : take(reader, JSON.parse(decoder.decode(body)));
  if (publications.length === 0) reader.emptyAnswer();
  return { hasNews: publications.length > 0, url, etag: response.headers.get("etag"), response };
}

export const STARVED =
  "No answer yet. If this page is open in other tabs, they may hold all six connections that " +
  "a browser opens to one server over HTTP/1.1.";

function take(reader, { publications, position, gap }) {
  if (gap) reader.gap(gap);
  const last = publications.length - 1;
  // The answer has one position, that after the last of its publications.
  publications.forEach((publication, index) =>
    reader.arrived({ ...publication, position: index === last ? position : undefined }),
  );
  reader.position = position;
  return publications;
}

/** fetch, with everything that is not a good answer thrown as a Refusal in words. */
export async function request(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refusal("The server cannot be reached.");
  }
  if (response.ok || response.status === 304) return response;
  const { status } = response;
  const words = await explanation(response);
  const retryMs = 1000 * (Number(response.headers.get("retry-after")) || 0);
  const isFinal = status >= 400 && status < 500 && status !== 408 && status !== 429;
  throw new Refusal(`The server refused (${status}): ${words}`, { isFinal, retryMs });
}

async function explanation(response) {
  const text = (await response.text()).slice(0, 2000);
  try {
    const { error, message } = JSON.parse(text);
    const words = error?.message ?? message ?? error;
    if (typeof words === "string") return ended(words);
  } catch {
    // Not JSON: shown as it came.
  }
  return ended(text.slice(0, 200) || response.statusText || "no reason given");
}

/** The server's own words at the end of a stream, event stream or WebSocket; without `retry` it is for good. */
export function disconnection({ code, reason, retry }) {
  const isFinal = retry === undefined;
  return new Refusal(`The server ended the connection (${code}): ${ended(reason)}`, { isFinal, retryMs: retry });
}

const ended = (words) => (/[.!?]\s*$/.test(words) ? words : `${words}.`);
