// Official clients that connect, one after the other and some at a time, say something, hear the answer, and leave.
//
//     node crowd_node.mjs '{"base": "http://…", "kinds": ["socket.io polling", …], "count": 100, "atOnce": 8}'
//
// Prints {kind: {"done": number, "errors": [text]}}. Anything that a client calls an error counts, and so does a
// connection that ends before it was told to.

import { createRequire } from "node:module";

import { Centrifuge } from "centrifuge";
import { EventSource } from "eventsource";
import SockJS from "sockjs-client";
import WebSocket from "ws";

const require = createRequire(import.meta.url);
const { base, kinds, count, atOnce } = JSON.parse(process.argv[2]);
const io = require("socket.io-client-4");
const TIMEOUT_MS = 20_000;

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not in time`)), TIMEOUT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function socketIo(mode, number) {
  const transports = mode === "polling" ? ["polling"] : ["polling", "websocket"];
  const socket = io(base, { transports, forceNew: true, reconnection: false });
  let leaving = false;
  try {
    await within(
      new Promise((resolve, reject) => {
        socket.on("connect_error", (error) => reject(new Error(`connect_error ${error.message} ${error.description}`)));
        socket.on("disconnect", (reason) => leaving || reject(new Error(`disconnect ${reason}`)));
        const { engine } = socket.io;
        engine.on("upgradeError", (error) => reject(new Error(`upgradeError ${error.message}`)));
        const upgraded = mode === "polling" ? Promise.resolve() : new Promise((done) => engine.on("upgrade", done));
        const connected = new Promise((done) => socket.on("connect", done));
        Promise.all([upgraded, connected])
          .then(() => socket.timeout(TIMEOUT_MS).emitWithAck("subscribe", `crowd-${number}`))
          .then((answer) => {
            if (answer.channel !== `crowd-${number}`) throw new Error(JSON.stringify(answer));
            resolve();
          })
          .catch(reject);
      }),
      mode,
    );
  } finally {
    leaving = true;
    socket.disconnect();
  }
}

async function sockJs(transport, number) {
  const sock = new SockJS(`${base}/sockjs`, null, { transports: [transport], timeout: TIMEOUT_MS });
  try {
    await within(
      new Promise((resolve, reject) => {
        sock.onclose = ({ code, reason }) => reject(new Error(`closed ${code} ${reason}`));
        sock.onopen = () => sock.send(JSON.stringify({ id: 1, connect: { name: `crowd ${number}` } }));
        sock.onmessage = ({ data }) => {
          const { id } = JSON.parse(data.split("\n")[0]);
          if (id === 1) sock.send(JSON.stringify({ id: 2, subscribe: { channel: `crowd-${number}` } }));
          else if (id === 2) resolve();
        };
      }),
      transport,
    );
  } finally {
    sock.onclose = null;
    sock.close();
  }
}

const ENDPOINTS = {
  websocket: "/connection/websocket",
  http_stream: "/connection/http_stream",
  sse: "/connection/sse",
};

async function centrifuge(transport, number) {
  const endpoint = base.replace(/^http/, transport === "websocket" ? "ws" : "http") + ENDPOINTS[transport];
  const client = new Centrifuge([{ transport, endpoint }], {
    emulationEndpoint: `${base}/emulation`,
    websocket: WebSocket,
    eventsource: EventSource,
    fetch,
    readableStream: ReadableStream,
  });
  let leaving = false;
  try {
    await within(
      new Promise((resolve, reject) => {
        client.on("error", ({ error }) => reject(new Error(`error ${error.code} ${error.message}`)));
        client.on("disconnected", ({ code, reason }) => leaving || reject(new Error(`disconnected ${code} ${reason}`)));
        const subscription = client.newSubscription(`crowd-${number}`);
        subscription.on("error", ({ error }) => reject(new Error(`subscription ${error.code} ${error.message}`)));
        subscription.on("publication", ({ data }) => data === number && resolve());
        subscription.on("subscribed", () => subscription.publish(number).catch(reject));
        subscription.subscribe();
        client.connect();
      }),
      transport,
    );
  } finally {
    leaving = true;
    client.disconnect();
  }
}

const CLIENTS = { "socket.io": socketIo, sockjs: sockJs, centrifuge };

async function crowd(kind) {
  const [name, how] = kind.split(" ");
  const errors = [];
  let next = 0;
  let done = 0;
  async function go() {
    while (next < count) {
      const number = next++;
      try {
        await CLIENTS[name](how, number);
        done += 1;
      } catch (error) {
        errors.push(String(error?.message ?? error));
      }
    }
  }
  await Promise.all(Array.from({ length: atOnce }, go));
  return { done, errors };
}

const results = {};
for (const kind of kinds) results[kind] = await crowd(kind);
process.stdout.write(JSON.stringify(results), () => process.exit(0));
