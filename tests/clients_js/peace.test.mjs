// Whatever happened to it, a client that is left in peace becomes well: drawn histories, and one promise at their end.
//
// Acts of the application, of the network and of the server follow each other at random, also in the middle of races
// and moves. Then everything works again: the client must be connected, each command must come to an end, each
// channel must be read without loss, and every transport must be reachable, by reconnecting and by climbing.

import assert from "node:assert/strict";

import { Everywire, TRANSPORTS } from "../../clients/js/everywire.js";
import { CHANNELS, histories } from "./histories.mjs";
import { WebSocket } from "./scripted_server.mjs";
import { sleep, until } from "./until.mjs";

const OPTIONS = {
  WebSocket, minReconnectMs: 5, maxReconnectMs: 30, headStartMs: 20, proofTimeoutMs: 500, busyMs: 10, climbMs: 60,
  commandTimeoutMs: 2_000, storage: null,
};

histories(20, async (history) => {
  const { pick, server, quiet } = history;
  const wire = new Everywire(server.url, OPTIONS);
  const seen = Object.fromEntries(CHANNELS.map((name) => [name, []]));
  const asked = [];
  for (const name of CHANNELS) {
    const channel = wire.channel(name, { since: { epoch: server.epoch, offset: 0 }, minResubscribeMs: 5, maxResubscribeMs: 20 });
    channel.on("publication", ({ data }) => seen[name].push(data));
    channel.subscribe();
  }
  const acts = {
    reconnect: () => wire.reconnect(),
    "reconnect to one": () => wire.reconnect(pick(TRANSPORTS)),
    climb: () => wire.climb(),
    "disconnect and connect": () => (wire.disconnect(), wire.connect()),
    call: () => asked.push(wire.rpc("echo", history.published).then((data) => data, (error) => error)),
    publish: () => history.publish(),
    "cut one": () => history.anySession()?.cut(),
    "cut all": () => server.cut(),
    "end one": () => history.anySession()?.end(3001, "shutdown"),
    "unsubscribe one": () => history.anySession()?.push({ channel: pick(CHANNELS), unsubscribe: { code: 2500, reason: "try again" } }),
    "block WebSocket": () => {
      server.script.request = ({ headers }) => (headers.upgrade ? { status: 403 } : null);
    },
    "refuse all": () => {
      server.script.request = () => ({ status: 503 });
    },
    "answer no subscribe": () => {
      server.script.command = (name) => (name === "subscribe" ? "ignore" : null);
    },
    "refuse subscribe for now": () => {
      server.script.command = (name) => (name === "subscribe" ? { error: { code: 100, message: "no", temporary: true } } : null);
    },
    "refuse connect for now": () => {
      server.script.command = (name) => (name === "connect" ? { error: { code: 100, message: "no", temporary: true } } : null);
    },
    "hold ticks back": () => {
      server.script.ticks = false;
    },
    "all is well": () => makeWell(),
  };
  const makeWell = () => {
    // Who waits for ticks that were held back is patient after many failures; it need not be here.
    if (!server.script.ticks) server.cut();
    Object.assign(server.script, quiet);
  };

  wire.connect();
  await history.act(acts);

  makeWell();
  const { what } = history;
  try {
    await until(() => wire.state === "connected", `it is connected ${what}`);
    history.publish();
    const hasAll = () => CHANNELS.every((name) => seen[name].length >= history.published);
    await until(hasAll, `all was read ${what}`);
    // Each by its name; this also forgives what was held against it.
    for (const transport of TRANSPORTS) {
      wire.reconnect(transport);
      await until(() => wire.state === "connected" && wire.transport === transport, `it is on ${transport} ${what}`);
    }
    await until(() => (wire.climb(), wire.transport === TRANSPORTS[0]), `it climbed ${what}`);
    history.publish();
    await until(hasAll, `all was read at last ${what}`);
    const { expected } = history;
    for (const name of CHANNELS) assert.deepEqual(seen[name], expected, `${name} ${what}`);
    assert.deepEqual(await wire.rpc("echo", "last"), { method: "echo", data: "last" });
    const ends = await Promise.race([Promise.all(asked), sleep(2 * OPTIONS.commandTimeoutMs)]);
    assert.ok(ends, `each command came to an end ${what}`);
    await until(() => server.sessions.size === 1, `one session is left ${what}`);
  } finally {
    wire.disconnect();
  }
  await until(() => server.sessions.size === 0, `no session is left ${what}`);
});
