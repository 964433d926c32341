// npm's `socket.io-client` in Node, at a standalone server that is restarted: only the built-in events are there.
//
//     node socketio_restart.mjs BASE_URL
//
// Each client subscribes to a channel of its own, publishes 0, 1 and 2 there and hears them; then "ready" is printed,
// and the server may go. When it is back, each subscribes again and publishes 3, 4 and 5. Prints {name: {heard, ids,
// recovered, problems}}.

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [base] = process.argv.slice(2);

async function until(holds, what) {
  const end = Date.now() + 30_000;
  while (!holds()) {
    if (Date.now() > end) throw new Error(`this never came to hold: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function client(version, transport) {
  const io = require(`socket.io-client-${version}`);
  const channel = `numbers.${version}.${transport}`;
  const told = { heard: [], ids: [], recovered: [], problems: [] };
  const socket = io(base, { transports: [transport], forceNew: true, reconnectionDelay: 50, reconnectionDelayMax: 300 });
  socket.on("message", (data) => told.heard.push(data));
  socket.on("connect", () => {
    const first = 3 * told.ids.length;
    told.ids.push(socket.id);
    told.recovered.push(Boolean(socket.recovered));
    socket.emit("subscribe", channel, (answer) => {
      if (answer.channel !== channel || !answer.position) told.problems.push(answer);
      for (let number = first; number < first + 3; number++) {
        socket.emit("publish", channel, number, (published) => {
          if (published.offset !== number - first + 1) told.problems.push([number, published]);
        });
      }
    });
  });
  return { name: `${version} ${transport}`, socket, told };
}

const clients = [2, 3, 4].flatMap((version) => ["polling", "websocket"].map((transport) => client(version, transport)));
await until(() => clients.every(({ told }) => told.heard.length === 3), "the first three").catch(console.error);
console.log("ready");
await until(() => clients.every(({ told }) => told.heard.length === 6), "the last three").catch(console.error);
process.stdout.write(JSON.stringify(Object.fromEntries(clients.map(({ name, told }) => [name, told]))), () => process.exit(0));
