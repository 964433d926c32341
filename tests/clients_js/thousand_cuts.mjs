// One client of three channels through a thousand cuts and changes of transport.
//
//     node thousand_cuts.mjs PROXY_URL SERVER_URL SEED CUTS
//
// A second client publishes numbers straight to the server. At random moments the first is cut by the proxy (GET
// /cut), moved to a random transport, told to climb, or dropped half-way. Prints what it read, and how it got there.

import { Everywire, TRANSPORTS } from "../../clients/js/everywire.js";
import { chances } from "./chances.mjs";
import { WebSocket } from "./scripted_server.mjs";
import { sleep, until } from "./until.mjs";

const CHANNELS = ["a", "b", "c"];
const MEAN_MS = 18;
/** One pause in eight is long enough for streams to prove themselves, and for moves on a quick machine. */
const LONG_MS = 150;
/** After so many rounds it is left alone until a move came to its end, however slow the machine. */
const ROUNDS_IN_BETWEEN = 100;
const PATIENCE_MS = 2_000;
const PUBLISH_MS = 4;

const [proxy, server, seed, cuts] = process.argv.slice(2);

const { random, pick } = chances(Number(seed));

const reader = new Everywire(proxy, {
  WebSocket, minReconnectMs: 5, maxReconnectMs: 40, headStartMs: 50, proofTimeoutMs: 2_000, climbMs: 200, storage: null,
});
const read = Object.fromEntries(CHANNELS.map((name) => [name, []]));
const told = { gaps: [], outcomes: {}, connected: {}, moved: 0 };
const count = (counts, name) => (counts[name] = (counts[name] ?? 0) + 1);
reader.on("connected", ({ transport }) => count(told.connected, transport));
reader.on("moved", () => told.moved++);
for (const name of CHANNELS) {
  const channel = reader.channel(name, { since: { epoch: "", offset: 0 } });
  channel.on("publication", ({ offset, data }) => read[name].push([offset, data]));
  channel.on("gap", (gap) => told.gaps.push(gap));
  channel.on("subscribed", ({ outcome }) => count(told.outcomes, outcome));
  channel.subscribe();
}

const writer = new Everywire(server, { WebSocket, transports: ["websocket"] });
await writer.connect();
await reader.connect();

let published = 0;
let isOver = false;
const publishing = (async () => {
  while (!isOver) {
    await Promise.all(CHANNELS.map((name) => writer.publish(name, published)));
    published += 1;
    await sleep(PUBLISH_MS);
  }
})();

const acts = [
  () => fetch(`${proxy}/cut`).catch(() => {}),
  () => reader.reconnect(pick(TRANSPORTS)),
  () => reader.climb(),
  () => (reader.disconnect(), reader.connect().catch(() => {})),
];

/** From a transport that has better ones to one of those, while numbers go on. */
async function moveInPeace() {
  const before = told.moved;
  let nextTryMs = 0;
  await until(() => {
    if (Date.now() > nextTryMs) {
      reader.reconnect(pick(TRANSPORTS.slice(1)));
      nextTryMs = Date.now() + PATIENCE_MS;
    }
    reader.climb();
    return told.moved > before;
  }, "the client moved");
}

for (let round = 0; round < Number(cuts); round++) {
  if (round % ROUNDS_IN_BETWEEN === ROUNDS_IN_BETWEEN - 1) await moveInPeace();
  await pick(acts)();
  await sleep(-MEAN_MS * Math.log(1 - random()) + (random() < 1 / 8 ? LONG_MS : 0));
}
isOver = true;
await publishing;
await until(() => CHANNELS.every((name) => read[name].length >= published), "all was read").catch(() => {});
await sleep(200);
const wrong = CHANNELS.flatMap((name) => {
  const index = read[name].findIndex(([offset, data], place) => offset !== place + 1 || data !== place);
  return index < 0 ? [] : [{ name, index, near: read[name].slice(Math.max(0, index - 2), index + 3) }];
});
const counts = Object.fromEntries(CHANNELS.map((name) => [name, read[name].length]));
// It ends by itself: nothing of either is left behind.
reader.disconnect();
writer.disconnect();
console.log(JSON.stringify({ published, counts, wrong, ...told }));
