// npm's `socket.io-client` through a rolling restart: clients that subscribe to a channel and come back by themselves.
//
//     node rolling_node.mjs '{"base": "http://…", "count": 20, "mode": "polling"}'
//
// Prints "ready" when all have subscribed, and, once something comes by standard input, a list of what became of
// each: {"heard": [messages], "connects", "recovered", "refused": [errors]}.

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { base, count, mode } = JSON.parse(process.argv[2]);
const io = require("socket.io-client-4");

const told = Array.from({ length: count }, () => ({ heard: [], connects: 0, recovered: 0, refused: [] }));
let subscribed = 0;
for (const one of told) {
  const transports = mode === "polling" ? ["polling"] : ["polling", "websocket"];
  const socket = io(base, { transports, forceNew: true, reconnectionDelay: 100, reconnectionDelayMax: 500 });
  socket.on("connect_error", (error) => one.refused.push(error.message));
  socket.on("message", (message) => one.heard.push(message));
  socket.on("connect", async () => {
    one.connects += 1;
    if (socket.recovered) one.recovered += 1;
    else await socket.emitWithAck("subscribe", "news");
    if (one.connects === 1 && ++subscribed === count) process.stdout.write("ready\n");
  });
}
process.stdin.on("data", () => process.stdout.write(`${JSON.stringify(told)}\n`, () => process.exit(0)));
