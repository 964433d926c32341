// Tabs that share a connection, left in peace after drawn histories: one connection, and all that was published.
//
// The tabs live in this one process, over its own BroadcastChannel and the Web Locks below. They come, leave, call,
// subscribe and unsubscribe, while the server cuts, refuses, answers late or not at all. At the end everything works
// again, and each tab must have read each channel once and in order.

import assert from "node:assert/strict";

import { Everywire } from "../../clients/js/everywire.js";
import { CHANNELS, histories } from "./histories.mjs";
import { WebSocket } from "./scripted_server.mjs";
import { sleep, until } from "./until.mjs";

const TABS = 3;
const OPTIONS = {
  WebSocket, shared: true, transports: ["websocket", "sse"], minReconnectMs: 5, maxReconnectMs: 30, headStartMs: 20,
  proofTimeoutMs: 500, busyMs: 10, commandTimeoutMs: 300, storage: null,
};

/** Web Locks (https://w3c.github.io/web-locks/), as far as tabs use them: exclusive, with `signal` and `steal`. */
class Locks {
  #held = new Map();
  #queues = new Map();

  request(name, { signal, steal = false }, callback) {
    return new Promise((resolve, reject) => {
      const request = { name, callback, resolve, reject };
      const queue = this.#queues.get(name) ?? this.#queues.set(name, []).get(name);
      if (signal?.aborted) return reject(signal.reason);
      signal?.addEventListener("abort", () => {
        if (queue.includes(request)) queue.splice(queue.indexOf(request), 1), reject(signal.reason);
      });
      if (steal) {
        this.#held.get(name)?.reject(new DOMException("stolen", "AbortError"));
        this.#held.delete(name);
        queue.unshift(request);
      } else queue.push(request);
      queueMicrotask(() => this.#grant(name));
    });
  }

  #grant(name) {
    if (this.#held.has(name)) return;
    const request = this.#queues.get(name).shift();
    if (!request) return;
    this.#held.set(name, request);
    Promise.resolve(request.callback({ name })).then(request.resolve, request.reject).finally(() => {
      if (this.#held.get(name) !== request) return;
      this.#held.delete(name);
      this.#grant(name);
    });
  }
}
Object.defineProperty(globalThis, "navigator", { value: { ...globalThis.navigator, locks: new Locks() } });

histories(12, async (history) => {
  const { pick, server, quiet } = history;
  const asked = [];
  const tabs = Array.from({ length: TABS }, () => {
    const wire = new Everywire(server.url, OPTIONS);
    const tab = { wire, seen: {}, gaps: [] };
    for (const name of CHANNELS) {
      tab.seen[name] = [];
      const since = { epoch: server.epoch, offset: 0 };
      const channel = wire.channel(name, { since, minResubscribeMs: 5, maxResubscribeMs: 20 });
      channel.on("publication", ({ data }) => tab.seen[name].push(data));
      channel.on("gap", (gap) => tab.gaps.push(gap));
      channel.subscribe();
    }
    return tab;
  });
  const acts = {
    come: () => pick(tabs).wire.connect(),
    leave: () => pick(tabs).wire.disconnect(),
    "leave and come": () => {
      const { wire } = pick(tabs);
      wire.disconnect();
      wire.connect();
    },
    reconnect: () => pick(tabs).wire.reconnect(),
    call: () => {
      const { wire } = pick(tabs);
      if (wire.state !== "disconnected") asked.push(wire.rpc("echo", 1).then((data) => data, (error) => error));
    },
    "come for a while": () => {
      const channel = pick(tabs).wire.channel("c", { minResubscribeMs: 5 });
      if (channel.state === "unsubscribed") channel.subscribe();
      else channel.unsubscribe();
    },
    publish: () => history.publish(),
    cut: () => server.cut(),
    "end one": () => history.anySession()?.end(3001, "shutdown"),
    "unsubscribe one": () => history.anySession()?.push({ channel: pick(CHANNELS), unsubscribe: { code: 2500, reason: "again" } }),
    "refuse all": () => (server.script.request = () => ({ status: 503 })),
    "answer no history": () => (server.script.command = (name) => name === "history" && "ignore"),
    "answer late": () => (server.script.command = (name) => name !== "connect" && { afterMs: 30 }),
    "answer no subscribe": () => (server.script.command = (name) => name === "subscribe" && "ignore"),
    "all is well": () => Object.assign(server.script, quiet),
  };
  for (const { wire } of tabs) wire.connect();
  await history.act(acts);

  Object.assign(server.script, quiet);
  const { what } = history;
  try {
    for (const { wire } of tabs) wire.connect();
    await until(() => tabs.every(({ wire }) => wire.state === "connected"), `all are connected ${what}`);
    history.publish();
    const hasAll = ({ seen }) => CHANNELS.every((name) => seen[name].length >= history.published);
    await until(() => tabs.every(hasAll), `all was read ${what}`);
    const { expected } = history;
    for (const { seen, gaps } of tabs) {
      assert.deepEqual(seen, { a: expected, b: expected }, what);
      assert.deepEqual(gaps, [], what);
    }
    for (const { wire } of tabs) assert.deepEqual((await wire.rpc("echo", "last")).data, "last");
    const ends = await Promise.race([Promise.all(asked), sleep(2_000)]);
    assert.ok(ends, `each command came to an end ${what}`);
    await until(() => server.sessions.size === 1, `one connection is left ${what}`);
  } finally {
    for (const { wire } of tabs) wire.disconnect();
  }
  await until(() => server.sessions.size === 0, `no connection is left ${what}`);
});
