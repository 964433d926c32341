// The clients that Node programs use, against a running server.
//
//     node clients.mjs BASE_URL
//
// Reads one channel by npm's `ws` (raw, and with the subprotocol), by npm's `eventsource`, and by `fetch`
// (poll, long poll, NDJSON stream), all at once, while it publishes by `fetch` and by `ws`. Each has to see the
// same data in the same order. Prints one JSON object: what each saw, by its name.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const require = createRequire(fileURLToPath(new URL("../../browser/package.json", import.meta.url)));
const { EventSource } = require("eventsource");
const { WebSocket } = require("ws");

const [base] = process.argv.slice(2);
const channel = new URL("/channels/node", base);
const socketUrl = Object.assign(new URL(channel), { protocol: channel.protocol.replace("http", "ws") });
const LAST = "last";
const DEADLINE_MS = 30_000;

const seen = { ws: [], "ws everywire.json": [], eventsource: [], poll: [], "long-poll": [], stream: [] };
const deadline = setTimeout(() => {
  console.error(`not all came: ${JSON.stringify(seen)}`);
  process.exit(1);
}, DEADLINE_MS);

/** Note what a reader saw; true when it was the last. */
function note(name, data) {
  seen[name].push(data);
  return data === LAST;
}

function readSocket(name, protocols) {
  const socket = new WebSocket(socketUrl, protocols);
  const opened = new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  const ended = new Promise((resolve) => {
    socket.on("message", (message, isBinary) => {
      const value = isBinary ? { bytes: [...message] } : JSON.parse(message);
      if (protocols.length && !("data" in value || "data_base64" in value)) return;
      const bytes = value?.data_base64 && { bytes: [...Buffer.from(value.data_base64, "base64")] };
      if (note(name, protocols.length ? (bytes ?? value.data) : value)) resolve();
    });
  }).then(() => new Promise((resolve) => {
    socket.on("close", resolve);
    socket.close(1000, "read enough");
  }));
  return { socket, opened, ended };
}

function readEvents() {
  const source = new EventSource(channel);
  const opened = new Promise((resolve, reject) => {
    source.addEventListener("open", resolve);
    source.addEventListener("error", reject);
  });
  const ended = new Promise((resolve) => {
    const take = (event) => {
      const value = JSON.parse(event.data);
      const data = event.type === "binary" ? { bytes: [...Buffer.from(value.data_base64, "base64")] } : value;
      if (note("eventsource", data)) resolve();
    };
    for (const type of ["message", "binary", "tick"]) source.addEventListener(type, take);
  }).then(() => source.close());
  return { opened, ended };
}

const dataOf = (row) => ("data" in row ? row.data : { bytes: [...Buffer.from(row.data_base64, "base64")] });

async function readPages(name, wait) {
  let position = "latest";
  for (;;) {
    const url = new URL(channel);
    url.searchParams.set("after", position);
    if (wait) url.searchParams.set("wait", wait);
    const answer = await (await fetch(url)).json();
    position = answer.position;
    if (answer.publications.some((row) => note(name, dataOf(row)))) return;
    if (!wait) await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function readStream(response) {
  let rest = "";
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    for (const line of lines.map((text) => JSON.parse(text))) {
      if (("data" in line || "data_base64" in line) && note("stream", dataOf(line))) return;
    }
  }
}

async function post(body, type, query = "") {
  const answer = await fetch(new URL(channel + query), { method: "POST", body, headers: { "Content-Type": type } });
  if (answer.status !== 201) throw new Error(`POST was answered ${answer.status}: ${await answer.text()}`);
}

const raw = readSocket("ws", []);
const enveloped = readSocket("ws everywire.json", ["everywire.json"]);
const events = readEvents();
const streamed = await fetch(channel, { headers: { Accept: "application/x-ndjson" } });
await Promise.all([raw.opened, enveloped.opened, events.opened]);
const pages = [readPages("poll"), readPages("long-poll", "20")];
// A poll that asks for `latest` begins where its first answer says: let both have asked.
await fetch(new URL(`${channel}?wait=0.3`));

await post(JSON.stringify({ text: "a\nb\u2028c ä 𝄞" }), "application/json");
await post(new Uint8Array([0, 10, 13, 255]), "application/octet-stream");
await post("[1,2]", "application/json", "?event=tick");
raw.socket.send("3.5");
await post("null", "application/json");
const answered = new Promise((resolve) => enveloped.socket.on("message", (message) => {
  const value = JSON.parse(message);
  if (value.id === 7) resolve(value);
}));
enveloped.socket.send(JSON.stringify({ data: "by envelope", id: 7 }));
const { position } = await answered;
await post(JSON.stringify(LAST), "application/json");
await Promise.all([raw.ended, enveloped.ended, events.ended, ...pages, readStream(streamed)]);
clearTimeout(deadline);
console.log(JSON.stringify({ seen, position }));
process.exit(0);
