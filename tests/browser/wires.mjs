// Every wire in a real browser, by what browsers have of their own: EventSource, WebSocket and fetch.
//
//     node wires.mjs BASE_URL
//
// BASE_URL's event streams should end after a second or so, so that EventSource has to come back by itself, with
// its Last-Event-ID. A page of BASE_URL's own origin reads the channel `wires` on all five wires while it publishes
// to it. A second page, of another origin, must not get through on any of them. Prints one JSON object; ends with
// 0 when it could be run, 2 when not.

import { createServer } from "node:http";

import { chromium } from "playwright-core";

const PUBLICATIONS = 300;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];

const [base] = process.argv.slice(2);

/** Runs in the page. Reads on all wires until the last publication came on each. */
async function readAll({ channel, publications }) {
  const seen = { poll: [], "long-poll": [], stream: [], sse: [], websocket: [] };
  const opens = { sse: 0 };
  const note = (wire, data) => seen[wire].push(data) && data === publications - 1;
  const url = new URL(channel, location.href);
  // Chromium lets one request at a time ask for an address, unless its cache is left out.
  const UNCACHED = { cache: "no-store" };

  async function pages(wire, wait) {
    let position = "earliest";
    for (;;) {
      const query = new URLSearchParams({ after: position, ...(wait && { wait }) });
      const answer = await (await fetch(`${url}?${query}`, UNCACHED)).json();
      position = answer.position;
      if (answer.publications.some(({ data }) => note(wire, data))) return;
      if (!wait) await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async function lines() {
    let position = "earliest";
    for (;;) {
      const headers = { Accept: "application/x-ndjson" };
      const response = await fetch(`${url}?after=${position}`, { ...UNCACHED, headers });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const texts = (rest + part.value).split("\n");
        rest = texts.pop();
        for (const line of texts.map((text) => JSON.parse(text))) {
          position = line.position ?? position;
          if ("data" in line && note("stream", line.data)) return void reader.cancel();
        }
      }
    }
  }

  const events = () => new Promise((resolve) => {
    const source = new EventSource(`${url}?after=earliest`);
    source.addEventListener("open", () => opens.sse++);
    source.addEventListener("message", (event) => {
      if (note("sse", JSON.parse(event.data))) {
        source.close();
        resolve();
      }
    });
  });

  const socket = () => new Promise((resolve, reject) => {
    const socket = new WebSocket(`${url.href.replace("http", "ws")}?after=earliest`);
    socket.addEventListener("message", (event) => {
      if (note("websocket", JSON.parse(event.data))) socket.close();
    });
    socket.addEventListener("close", (event) => (event.wasClean ? resolve() : reject(new Error(`closed ${event.code}`))));
  });

  async function publish() {
    for (let value = 0; value < publications; value++) {
      // A text body would be sent, and published, as text/plain.
      const headers = { "Content-Type": "application/json" };
      const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(value) });
      if (answer.status !== 201) throw new Error(`POST was answered ${answer.status}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  await Promise.all([publish(), pages("poll"), pages("long-poll", "5"), lines(), events(), socket()]);
  return { seen, opens };
}

/** Runs in a page of another origin: what does it get from each wire? */
async function tryAll({ channel }) {
  const outcome = {};
  const socketUrl = channel.replace("http", "ws");
  for (const accept of ["application/json", "application/x-ndjson", "text/event-stream"]) {
    outcome[accept] = await fetch(channel, { headers: { Accept: accept } }).then((answer) => answer.status, () => "failed");
  }
  outcome.post = await fetch(channel, { method: "POST", body: "1" }).then((answer) => answer.status, () => "failed");
  outcome.blind = await fetch(channel, { method: "POST", body: "1", mode: "no-cors" })
    .then((answer) => answer.type, () => "failed");
  outcome.eventsource = await new Promise((resolve) => {
    const source = new EventSource(channel);
    source.onopen = () => resolve("open");
    source.onerror = () => resolve(source.readyState === EventSource.CLOSED ? "failed" : "again");
  });
  outcome.websocket = await new Promise((resolve) => {
    const socket = new WebSocket(socketUrl);
    socket.onopen = () => resolve("open");
    socket.onerror = () => resolve("failed");
  });
  return outcome;
}

const foreign = createServer((_, response) => response.setHeader("Content-Type", "text/html").end("<!doctype html>"));
await new Promise((resolve) => foreign.listen(0, "127.0.0.1", resolve));
const browser = await chromium
  .launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: FLAGS })
  .catch((error) => {
    console.error(`Chromium did not start: ${error.message}`);
    process.exit(2);
  });
try {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  await page.goto(new URL("/livez", base).href);
  const channel = new URL("/channels/wires", base).href;
  const result = await page.evaluate(readAll, { channel, publications: PUBLICATIONS });
  const before = await (await page.request.get(channel)).json();
  const other = await context.newPage();
  await other.goto(`http://127.0.0.1:${foreign.address().port}/`);
  result.foreign = await other.evaluate(tryAll, { channel });
  const after = await (await page.request.get(channel)).json();
  result.published = after.publications.length - before.publications.length;
  console.log(JSON.stringify(result));
} finally {
  await browser.close();
  foreign.close();
}
