// Which transport wins and why: blocked, silent, busy, refused, remembered, climbing, moving.

import assert from "node:assert/strict";
import { after, afterEach, beforeEach, test } from "node:test";

import { Everywire } from "../../clients/js/everywire.js";
import { Backoff } from "../../clients/js/backoff.js";
import { ScriptedServer, WebSocket } from "./scripted_server.mjs";
import { next, sleep, until } from "./until.mjs";

const QUICK = {
  WebSocket, minReconnectMs: 10, maxReconnectMs: 50, headStartMs: 100, proofTimeoutMs: 1_000, busyMs: 50, climbMs: 0,
};

let server;
let wires = [];

const open = (options) => {
  const wire = new Everywire(server.url, { ...QUICK, ...options });
  wires.push(wire);
  return wire;
};

const isUpgrade = ({ headers }) => headers.upgrade !== undefined;
const path = ({ url }) => url.split("?")[0];
const outcomes = (wire) => wire.attempts.map(({ transport, outcome }) => `${transport} ${outcome}`);

beforeEach(async () => {
  await server?.stop();
  server = await new ScriptedServer().start();
});

afterEach(() => {
  for (const wire of wires.splice(0)) wire.disconnect();
});

after(() => server.stop());

test("the best wins where nothing is in the way, and nothing else is tried", async () => {
  const wire = open();
  await wire.connect();
  assert.deepEqual(outcomes(wire), ["websocket won"]);
  assert.deepEqual(server.requests, { "/connection/websocket": 1 });
});

test("a refused upgrade falls back at once", async () => {
  server.script.request = (request) => (isUpgrade(request) ? { status: 403 } : null);
  const wire = open({ headStartMs: 60_000 });
  await wire.connect();
  assert.deepEqual(outcomes(wire), ["websocket blocked", "http_stream won"]);
  assert.match(wire.attempts[0].reason, /handshake failed.*403/);
});

test("an upgrade and then silence falls back after the head start", async () => {
  server.script.socket = () => "silent";
  const wire = open();
  await wire.connect();
  assert.equal(wire.transport, "http_stream");
  assert.deepEqual(outcomes(wire), ["http_stream won", "websocket late"]);
  assert.match(wire.attempts[1].reason, /answered, and then nothing came/);
});

test("a stream whose ticks do not come is held back", async () => {
  server.script.request = (request) => (isUpgrade(request) ? { status: 403 } : null);
  server.script.ticks = false;
  const wire = open();
  await wire.connect();
  assert.equal(wire.transport, "long-poll");
  const late = wire.attempts.filter(({ outcome }) => outcome === "late");
  assert.deepEqual(late.map(({ transport }) => transport), ["http_stream", "sse"]);
  assert.match(late[0].reason, /0 of 2 ticks: the body is held back/);
});

test("a wire that carries nothing up is not taken", async () => {
  server.script.request = (request) => (isUpgrade(request) || path(request) === "/emulation" ? { status: 405 } : null);
  const wire = open({ headStartMs: 60_000 });
  await wire.connect();
  assert.equal(wire.transport, "long-poll");
  assert.match(wire.attempts[1].reason, /answered 405/);
});

test("a ping that is not answered proves nothing", async () => {
  server.script.command = (name, _, { transport }) => (name === "ping" && transport === "websocket" ? "ignore" : null);
  const wire = open();
  await wire.connect();
  assert.equal(wire.transport, "http_stream");
  assert.match(wire.attempts[1].reason, /ping was not answered/);
});

test("busy never falls back, and waits as told", async () => {
  const busy = { status: 503, headers: { "Retry-After": "1" }, body: { error: { code: 124, message: "busy" } } };
  server.script.socket = () => ({ code: 3013, reason: "too many; come back in 300 ms" });
  const wire = open();
  const startedMs = Date.now();
  wire.connect();
  const { retryMs } = await next(wire, "error");
  assert.ok(retryMs >= 300 && retryMs < 460, retryMs);
  assert.deepEqual(Object.keys(server.requests), ["/connection/websocket"]);
  server.script.socket = () => null;
  await next(wire, "connected");
  assert.ok(Date.now() - startedMs >= 300);
  assert.deepEqual(outcomes(wire), ["websocket busy", "websocket won"]);

  const other = open({ transports: ["http_stream", "sse", "long-poll", "poll"] });
  server.requests = {};
  server.script.request = () => busy;
  other.connect();
  assert.ok((await next(other, "error")).retryMs >= 1_000);
  assert.deepEqual(server.requests, { "/connection/http_stream": 1 });
  server.script.request = () => null;
  await next(other, "connected");
  assert.equal(other.transport, "http_stream");
});

test("somebody else's 503 is not our busy", async () => {
  server.script.request = (request) => (path(request) === "/connection/http_stream" ? { status: 503, body: "<html>" } : null);
  const wire = open({ transports: ["http_stream", "sse"] });
  await wire.connect();
  assert.deepEqual(outcomes(wire), ["http_stream lost", "sse won"]);
  assert.match(wire.attempts[0].reason, /something on the way answered 503/);
});

test("our refusal ends it on every transport; somebody else's does not", async () => {
  const ours = { status: 403, body: { error: { code: 126, message: "this origin is not allowed" } } };
  server.script.request = () => ours;
  const wire = open();
  await assert.rejects(wire.connect(), { code: 126 });
  assert.deepEqual(outcomes(wire), ["websocket blocked", "http_stream refused"]);
  server.script.request = (request) => (path(request).endsWith("poll") ? null : { status: 403, body: "blocked by policy" });
  const other = open();
  await other.connect();
  assert.equal(other.transport, "long-poll");
});

test("a server that is down is asked by few transports, and found again", async () => {
  const wire = open();
  await wire.connect();
  const { port } = server.server.address();
  await server.stop();
  await until(() => wire.attempts.filter(({ purpose }) => purpose === "connect").length > 6);
  const counts = {};
  for (const { transport } of wire.attempts.slice(1)) counts[transport] = (counts[transport] ?? 0) + 1;
  assert.equal(counts.sse, undefined);
  assert.equal(counts.poll, undefined);
  assert.equal(wire.attempts[1].transport, "websocket");
  await new Promise((resolve) => server.server.listen(port, "127.0.0.1", resolve));
  await next(wire, "connected");
});

test("after a loss only the transport that worked is tried first", async () => {
  const wire = open();
  await wire.connect();
  server.requests = {};
  server.cut();
  await next(wire, "connected");
  assert.deepEqual(server.requests, { "/connection/websocket": 1 });
});

test("what worked is remembered per server, for a while", async () => {
  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
  server.script.socket = () => "silent";
  const wire = open({ storage });
  await wire.connect();
  assert.deepEqual([...kept.keys()], [`everywire:${server.url}`]);
  const other = open({ storage });
  await other.connect();
  assert.deepEqual(outcomes(other), ["http_stream won"]);
  const [[key, value]] = kept;
  kept.set(key, JSON.stringify({ ...JSON.parse(value), at: Date.now() - 25 * 3600 * 1000 }));
  server.script.socket = () => null;
  const later = open({ storage });
  await later.connect();
  assert.equal(later.transport, "websocket");
  const broken = open({ storage: { getItem: () => "{", setItem: () => { throw new Error("full"); } } });
  await broken.connect();
});

test("it climbs back up without losing anything, and the old connection answers what it was asked", async () => {
  server.script.request = (request) => (isUpgrade(request) ? { status: 403 } : null);
  const wire = open({ climbMs: 150 });
  const seen = { a: [], b: [] };
  for (const name of ["a", "b"]) wire.channel(name).on("publication", ({ data }) => seen[name].push(data));
  let losses = 0;
  wire.on("disconnected", () => losses++);
  await wire.connect();
  await Promise.all([wire.channel("a").subscribe(), wire.channel("b").subscribe()]);
  assert.equal(wire.transport, "http_stream");
  let published = 0;
  const clock = setInterval(() => {
    server.publish("a", published);
    server.publish("b", published++);
  }, 1);
  server.script.command = (name, { method }, session) => {
    if (method !== "slow") return null;
    setTimeout(() => session.write([{ id: server.asked.findLast(({ command }) => command.rpc).command.id, rpc: { data: "done" } }]), 400);
    return "ignore";
  };
  const slow = wire.rpc("slow");
  await until(() => server.count("rpc") === 1);
  server.script.request = () => null;
  const { from, to } = await next(wire, "moved");
  assert.deepEqual([from, to, wire.transport], ["http_stream", "websocket", "websocket"]);
  await sleep(50);
  clearInterval(clock);
  await until(() => seen.a.length >= published && seen.b.length >= published);
  const expected = Array.from({ length: published }, (_, index) => index);
  assert.deepEqual(seen, { a: expected, b: expected });
  assert.equal(await slow, "done");
  await until(() => server.sessions.size === 1);
  assert.equal(losses, 0);
});

test("a move that breaks half-way costs a reconnect, and nothing else", async () => {
  server.script.request = (request) => (isUpgrade(request) ? { status: 403 } : null);
  const wire = open();
  const channel = wire.channel("a");
  const seen = [];
  channel.on("publication", ({ data }) => seen.push(data));
  await wire.connect();
  await channel.subscribe();
  server.script.request = () => null;
  server.script.command = (name, _, session) => {
    if (name !== "subscribe" || session.transport !== "websocket") return null;
    server.script.command = () => null;
    server.publish("a", "between");
    setTimeout(() => session.cut(), 20);
    return "ignore";
  };
  wire.climb();
  const { reason } = await next(wire, "disconnected");
  assert.match(reason, /while moving/);
  await next(wire, "connected");
  server.publish("a", "after");
  await until(() => seen.length === 2);
  assert.deepEqual(seen, ["between", "after"]);
});

for (const [what, interrupt] of [
  ["reconnect()", (wire) => wire.reconnect("poll")],
  ["disconnect() and connect()", (wire) => (wire.disconnect(), wire.connect())],
]) {
  test(`after ${what} in the middle of a move it climbs again`, async () => {
    const blocked = (request) => (isUpgrade(request) ? { status: 403 } : null);
    server.script.request = blocked;
    const wire = open();
    const seen = [];
    wire.channel("a").on("publication", ({ data }) => seen.push(data));
    await wire.connect();
    await wire.channel("a").subscribe();
    server.script.request = () => null;
    server.script.command = (name, _command, session) => (name === "subscribe" && session.transport === "websocket" ? "ignore" : null);
    const isMoving = () => server.asked.some(({ transport, command }) => transport === "websocket" && command.subscribe);
    wire.climb();
    await until(isMoving, "the move has begun");
    server.script.request = blocked;
    await interrupt(wire);
    await until(() => wire.state === "connected");
    assert.notEqual(wire.transport, "websocket");
    server.script.request = () => null;
    server.script.command = () => null;
    wire.climb();
    assert.equal((await next(wire, "moved")).to, "websocket");
    server.publish("a", "after");
    await until(() => seen.length === 1);
  });
}

test("a transport that is cut right after it worked, twice, comes last for a while", async () => {
  const wire = open();
  await wire.connect();
  for (let round = 0; round < 2; round++) {
    await until(() => wire.state === "connected");
    const [session] = server.sessions.values();
    const lost = next(wire, "disconnected");
    session.cut();
    await lost;
  }
  await until(() => wire.state === "connected");
  assert.equal(wire.transport, "http_stream");
});

test("a dead connection is found when the page becomes visible, and online ends a wait", async () => {
  const page = new EventTarget();
  const [document, window] = [Object.assign(page, { visibilityState: "visible" }), new EventTarget()];
  Object.assign(globalThis, { document, self: window });
  try {
    const wire = open({ minReconnectMs: 60_000, maxReconnectMs: 60_000 });
    await wire.connect();
    server.script.command = () => "ignore";
    document.dispatchEvent(new Event("visibilitychange"));
    const { reason } = await next(wire, "disconnected");
    assert.match(reason, /ping was not answered/);
    server.script.command = () => null;
    const startedMs = Date.now();
    window.dispatchEvent(new Event("online"));
    await next(wire, "connected");
    assert.ok(Date.now() - startedMs < 2_000);
  } finally {
    delete globalThis.document;
    delete globalThis.self;
  }
});

test("silence beyond the server's ping ends a connection", async () => {
  server.ping = { ping: 1, pong: true };
  const wire = open({ pingGraceMs: 500 });
  await wire.connect();
  const { reason } = await next(wire, "disconnected");
  assert.match(reason, /ping did not come/);
});

test("pings are answered when pongs are wanted", async () => {
  const wire = open({ transports: ["websocket"] });
  await wire.connect();
  const [session] = server.sessions.values();
  session.write([{}]);
  await until(() => server.asked.some(({ command }) => Object.keys(command).length === 0));
});

test("terminal codes end it, the others do not", async () => {
  const wire = open();
  await wire.connect();
  [...server.sessions.values()][0].end(4500, "go away");
  const { code, willReconnect } = await next(wire, "disconnected");
  assert.deepEqual([code, willReconnect], [4500, false]);
  await sleep(100);
  assert.equal(wire.state, "disconnected");
  const other = open();
  await other.connect();
  [...server.sessions.values()].at(-1).end(3005, "expired");
  assert.equal((await next(other, "disconnected")).willReconnect, true);
  await next(other, "connected");
});

test("delays have full jitter, double up to a bound, and never fall below the server's word", () => {
  const backoff = new Backoff({ minMs: 500, maxMs: 20_000, random: () => 1 });
  assert.deepEqual(Array.from({ length: 8 }, () => backoff.next()), [500, 1000, 2000, 4000, 8000, 16000, 20000, 20000]);
  assert.equal(new Backoff({ random: () => 0 }).next(), 0);
  assert.equal(new Backoff({ random: () => 0 }).next(7_000), 7_000);
  const spread = Array.from({ length: 1_000 }, () => new Backoff().next(10_000));
  assert.ok(Math.max(...spread) - Math.min(...spread) > 4_000);
});
