// The client against the scripted server, on every transport: commands, recovery, refusals, tokens.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { CLIENT, Everywire, EverywireError, TRANSPORTS, Unauthorized } from "../../clients/js/everywire.js";
import { ScriptedServer, WebSocket } from "./scripted_server.mjs";
import { next, sleep, until } from "./until.mjs";

const QUICK = { WebSocket, minReconnectMs: 10, maxReconnectMs: 50, headStartMs: 100, proofTimeoutMs: 1_500, busyMs: 50 };

let server;
let wires;

const open = (options) => {
  const wire = new Everywire(server.url, { ...QUICK, ...options });
  wires.push(wire);
  return wire;
};

beforeEach(async () => {
  // Node 20 runs this for a suite as well, and what belongs after each not.
  await server?.stop();
  wires = [];
  server = await new ScriptedServer().start();
});

afterEach(async () => {
  for (const wire of wires) wire.disconnect();
  await server.stop();
});

for (const transport of TRANSPORTS) {
  describe(transport, () => {
    const on = (options) => open({ transports: [transport], ...options });

    test("every command is answered", async () => {
      const wire = on();
      await wire.connect();
      assert.equal(wire.transport, transport);
      assert.equal(wire.attempts.at(-1).outcome, "won");
      const channel = wire.channel("news");
      const seen = [];
      channel.on("publication", ({ data, offset }) => seen.push([data, offset]));
      const subscribed = await channel.subscribe();
      assert.equal(subscribed.outcome, "new");
      for (const value of [1, "two", { three: 3 }, null, false]) await channel.publish(value);
      await until(() => seen.length === 5);
      assert.deepEqual(seen, [[1, 1], ["two", 2], [{ three: 3 }, 3], [null, 4], [false, 5]]);
      assert.deepEqual(await wire.rpc("add", [1, 2]), { method: "add", data: [1, 2] });
      assert.deepEqual(Object.keys(await channel.presence()), [wire.client]);
      assert.deepEqual(await channel.presenceStats(), { clients: 1, users: 1 });
      const { publications, offset } = await channel.history();
      assert.equal(publications.length, 5);
      assert.equal(offset, 5);
      await wire.send({ hello: true });
      await until(() => server.count("send") === 1);
      channel.unsubscribe();
      assert.equal(channel.state, "unsubscribed");
      await until(() => server.count("unsubscribe") >= 1);
      await sleep(50);
      server.publish("news", "unheard");
      await sleep(50);
      assert.equal(seen.length, 5);
    });

    test("nothing is lost, doubled or out of order when it is cut", async () => {
      const wire = on();
      const seen = { a: [], b: [] };
      const outcomes = [];
      for (const name of ["a", "b"]) {
        const channel = wire.channel(name);
        channel.on("publication", ({ data }) => seen[name].push(data));
        channel.on("subscribed", ({ outcome }) => outcomes.push(outcome));
        channel.subscribe();
      }
      await wire.connect();
      await until(() => outcomes.length === 2);
      const expected = [];
      for (let round = 0; round < 20; round++) {
        for (let step = 0; step < 3; step++) {
          expected.push(expected.length);
          server.publish("a", expected.at(-1));
          server.publish("b", expected.at(-1));
          await sleep(3);
        }
        server.cut();
      }
      await until(() => seen.a.length >= expected.length && seen.b.length >= expected.length);
      await sleep(100);
      assert.deepEqual(seen, { a: expected, b: expected });
      assert.ok(outcomes.slice(2).every((outcome) => outcome === "recovered"));
    });

    test("what is gone is told as a gap", async () => {
      const wire = on();
      const channel = wire.channel("news", { since: { epoch: "e1", offset: 2 } });
      for (let value = 1; value <= 6; value++) server.publish("news", value);
      server.trim("news", 2);
      const gap = next(channel, "gap");
      wire.connect();
      const { outcome } = await channel.subscribe();
      assert.equal(outcome, "trimmed");
      assert.deepEqual(await gap, { channel: "news", from: 3, to: 6, reason: "trimmed" });
      server.epoch = "e2";
      const reset = next(channel, "gap");
      server.cut();
      assert.deepEqual(await reset, { channel: "news", from: null, to: null, reason: "reset" });
      assert.equal(channel.position.epoch, "e2");
    });

    test("a refusal ends it after one attempt", async () => {
      server.script.command = (name) => name === "connect" && { error: { code: 101, message: "who are you" } };
      const wire = on({ token: "bad" });
      await assert.rejects(wire.connect(), { code: 101, name: "EverywireError" });
      assert.equal(wire.state, "disconnected");
      await sleep(100);
      assert.equal(server.count("connect"), 1);
      await assert.rejects(wire.rpc("x"), { code: CLIENT.DISCONNECTED });
    });

    test("an expired token is replaced, and a subscription's, too", async () => {
      let tokens = 0;
      let channelTokens = 0;
      server.script.command = (name, request) => {
        if (name === "connect" && request.token === "t1") return { error: { code: 109, message: "token expired" } };
        if (name === "subscribe" && request.token === "s1") return { error: { code: 109, message: "token expired" } };
        return null;
      };
      const wire = on({ getToken: async () => `t${++tokens}` });
      const channel = wire.channel("private", {
        getToken: async ({ channel: name }) => (assert.equal(name, "private"), `s${++channelTokens}`),
        minResubscribeMs: 10,
      });
      wire.connect();
      await channel.subscribe();
      assert.equal(tokens, 2);
      assert.equal(channelTokens, 2);
    });

    test("tokens are refreshed before they run out, and nothing is interrupted", async () => {
      let tokens = 0;
      let isShort = true;
      server.script.connectResult = () => (isShort ? { expires: true, ttl: 1 } : { expires: true, ttl: 3600 });
      server.script.subscribeResult = () => (isShort ? { expires: true, ttl: 1 } : { expires: true, ttl: 3600 });
      const wire = on({ getToken: () => `t${++tokens}` });
      const channel = wire.channel("private", { getToken: () => `s${++tokens}` });
      let losses = 0;
      wire.on("disconnected", () => losses++);
      await wire.connect();
      await channel.subscribe();
      isShort = false;
      await until(() => tokens >= 4);
      await sleep(100);
      assert.equal(losses, 0);
      const isPoll = transport.endsWith("poll");
      if (isPoll) {
        const last = server.asked.filter(({ command }) => command.connect).at(-1).command.connect;
        assert.ok(Number(last.token.slice(1)) >= 3);
      } else {
        assert.equal(server.count("refresh"), 1);
        assert.equal(server.count("sub_refresh"), 1);
      }
    });

    test("a channel that may not be read is refused, and the others go on", async () => {
      server.script.command = (name, { channel }) =>
        name === "subscribe" && channel === "secret" && { error: { code: 103, message: "no" } };
      const wire = on();
      wire.connect();
      const open = wire.channel("open");
      await open.subscribe();
      await assert.rejects(wire.channel("secret").subscribe(), { code: 103 });
      server.publish("open", 1);
      assert.equal((await next(open, "publication")).data, 1);
    });

    test("the server unsubscribes, for good and for a while", async (context) => {
      if (transport === "poll") return context.skip("its sessions last no longer than a request: nothing can be pushed");
      const wire = on();
      const channel = wire.channel("news");
      wire.connect();
      await channel.subscribe();
      const tell = (code) => [...server.sessions.values()].forEach((session) => {
        if (!session.channels.delete("news")) return;
        session.push({ channel: "news", unsubscribe: { code, reason: "so" } });
      });
      await until(() => [...server.sessions.values()].some(({ channels }) => channels.has("news")));
      const again = next(channel, "subscribed");
      tell(2500);
      assert.equal((await again).outcome, "recovered");
      await until(() => [...server.sessions.values()].some(({ channels }) => channels.has("news")));
      const ended = next(channel, "unsubscribed");
      tell(2000);
      assert.equal((await ended).code, 2000);
      assert.equal(channel.state, "unsubscribed");
    });

    test("server-side subscriptions are told, recovered and ended", async () => {
      for (let value = 1; value <= 3; value++) server.publish("mine", value);
      server.script.connectResult = (session, { subs }) => {
        session.channels.add("mine");
        const at = { recoverable: true, positioned: true, epoch: "e1" };
        const { recover, offset = 0 } = subs?.mine ?? {};
        if (!recover) return { subs: { mine: { ...at, offset: 3 } } };
        const publications = server.channel("mine").slice(offset);
        return { subs: { mine: { ...at, was_recovering: true, recovered: true, offset, publications } } };
      };
      const wire = on();
      const seen = [];
      wire.on("publication", ({ channel, data }) => seen.push([channel, data]));
      const subscribed = next(wire, "subscribed");
      wire.connect();
      assert.equal((await subscribed).channel, "mine");
      assert.equal(wire.channel("mine").isServerSide, true);
      await sleep(20);
      server.publish("mine", 4);
      await until(() => seen.length === 1);
      server.cut();
      server.publish("mine", 5);
      await until(() => seen.length === 2);
      assert.deepEqual(seen, [["mine", 4], ["mine", 5]]);
      const ended = next(wire, "unsubscribed");
      server.script.connectResult = () => ({});
      // A connect reply alone does not end a poll that is held: what it no longer says is heard with its end.
      server.cut();
      await sleep(100);
      for (const session of [...server.sessions.values()]) session.end(1012, "restart");
      assert.equal((await ended).channel, "mine");
    });

    test("a command that was sent and not answered is rejected, not sent again", async () => {
      const wire = on();
      await wire.connect();
      server.script.command = (name) => (name === "rpc" ? "ignore" : null);
      const answer = wire.rpc("slow");
      answer.catch(() => {});
      await until(() => server.count("rpc") === 1);
      if (!transport.endsWith("poll")) server.cut();
      else return; // A poll without a reply has been answered: nothing is left to wait for but the time-out.
      await assert.rejects(answer, (error) => error instanceof EverywireError && error.wasSent && error.temporary
        && error.code === CLIENT.CONNECTION_LOST);
      await until(() => wire.state === "connected");
      assert.equal(server.count("rpc"), 1);
    });

    test("disconnect and connect go on from the same position", async () => {
      const wire = on();
      const channel = wire.channel("news");
      const seen = [];
      channel.on("publication", ({ data }) => seen.push(data));
      await wire.connect();
      await channel.subscribe();
      wire.disconnect();
      assert.equal(wire.state, "disconnected");
      server.publish("news", "while away");
      await sleep(30);
      assert.deepEqual(seen, []);
      const again = next(channel, "subscribed");
      await wire.connect();
      assert.equal((await again).outcome, "recovered");
      assert.deepEqual(seen, ["while away"]);
    });
  });
}

test("tickets: one for each connect, none kept", async () => {
  let tickets = 0;
  const wire = open({ getTicket: async () => `t.${++tickets}`, transports: ["websocket"] });
  await wire.connect();
  server.cut();
  await next(wire, "connected");
  const used = server.asked.filter(({ command }) => command.connect).map(({ command }) => command.connect.token);
  assert.deepEqual(used, ["t.1", "t.2"]);
});

test("getToken that says Unauthorized ends it; one that fails is asked again", async () => {
  let asked = 0;
  const wire = open({ getToken: () => (++asked < 3 ? Promise.reject(new Error("offline")) : "good") });
  await wire.connect();
  assert.equal(asked, 3);
  const other = open({ getToken: () => Promise.reject(new Unauthorized("signed out")) });
  await assert.rejects(other.connect(), { code: CLIENT.NO_TOKEN, message: "signed out" });
  assert.equal(other.state, "disconnected");
});

for (const transport of TRANSPORTS) {
  test(`a flood over ${transport} is sent in messages that servers take, in order, and is bounded`, async () => {
    const wire = open({ transports: [transport] });
    await wire.connect();
    const channel = wire.channel("flood");
    const seen = [];
    channel.on("publication", ({ data }) => seen.push(data.number));
    await channel.subscribe();
    const data = "x".repeat(2_000);
    const done = Array.from({ length: 1_100 }, (_, number) => channel.publish({ number, data }).then(() => null, ({ code }) => code));
    const refused = (await Promise.all(done)).filter(Boolean);
    assert.deepEqual(refused, Array(100).fill(CLIENT.TOO_MANY));
    await until(() => seen.length === 1_000);
    assert.deepEqual(seen, Array.from({ length: 1_000 }, (_, number) => number));
    assert.ok(server.longest < 64 * 1024, `${server.longest}`);
  });
}

test("commands wait for the connection, and are bounded", async () => {
  const wire = open({ commandTimeoutMs: 300, transports: ["websocket"], proofTimeoutMs: 100 });
  await assert.rejects(wire.rpc("early"), { code: CLIENT.DISCONNECTED });
  server.script.socket = () => "silent";
  wire.connect();
  const waiting = Array.from({ length: 1_001 }, () => wire.rpc("x").catch((error) => error));
  assert.equal((await waiting.at(-1)).code, CLIENT.TOO_MANY);
  const late = await waiting[0];
  assert.equal(late.code, CLIENT.TIMEOUT);
  assert.equal(late.wasSent, false);
  server.script.socket = () => null;
  assert.deepEqual(await wire.rpc("now", 1), { method: "now", data: 1 });
});

test("binary data, event names, tags and clients' info are read", async () => {
  const wire = open({ transports: ["websocket"] });
  const channel = wire.channel("mixed");
  wire.connect();
  await channel.subscribe();
  const seen = [];
  channel.on("publication", (publication) => seen.push(publication));
  const [session] = server.sessions.values();
  const bytes = { data_base64: "AAEC", content_type: "image/png" };
  session.push({ channel: "mixed", pub: { data: bytes, offset: 1, tags: { event: "picture", size: "3" }, time: 5 } });
  session.push({ channel: "mixed", pub: { data: { data_base64: "%", content_type: "x" }, offset: 2 } });
  session.push({ channel: "mixed", pub: { data: 1, offset: 3, info: { user: "u", client: "c", conn_info: { a: 1 } } } });
  session.push({ channel: "mixed", pub: { data: "not in the log" } });
  session.push({ channel: "mixed", pub: { data: "again", offset: 2 } });
  session.push({ channel: "mixed", pub: { data: 2, offset: 6 } });
  await until(() => seen.length === 5);
  const [picture, odd, signed] = seen;
  assert.deepEqual(picture, {
    channel: "mixed", offset: 1, data: Uint8Array.of(0, 1, 2), contentType: "image/png", event: "picture",
    tags: { size: "3" }, time: 5,
  });
  assert.deepEqual(odd.data, { data_base64: "%", content_type: "x" });
  assert.deepEqual(signed.info, { user: "u", client: "c", connInfo: { a: 1 } });
  assert.deepEqual(seen.map(({ data }) => data).slice(3), ["not in the log", 2]);
});

test("messages, joins, leaves and skipped offsets are told", async () => {
  const wire = open({ transports: ["http_stream"] });
  const channel = wire.channel("room", { joinLeave: true });
  const told = [];
  for (const name of ["join", "leave", "presence", "gap"]) channel.on(name, (event) => told.push([name, event]));
  wire.on("message", ({ data }) => told.push(["message", data]));
  wire.connect();
  await channel.subscribe();
  assert.equal(server.asked.at(-1).command.subscribe.join_leave, true);
  const [session] = server.sessions.values();
  session.push({ message: { data: [1] } });
  session.push({ channel: "room", join: { info: { user: "a", client: "1" } } });
  session.push({ channel: "room", leave: { info: { user: "a", client: "1" } } });
  session.push({ channel: "room", presence_changed: {} });
  session.push({ channel: "room", pub: { data: 1, offset: 3 } });
  await until(() => told.length === 5);
  assert.deepEqual(told, [
    ["message", [1]],
    ["join", { channel: "room", info: { user: "a", client: "1" } }],
    ["leave", { channel: "room", info: { user: "a", client: "1" } }],
    ["presence", { channel: "room" }],
    ["gap", { channel: "room", from: 1, to: 2, reason: "skipped" }],
  ]);
});

test("a snapshot comes with the subscription", async () => {
  server.publish("board", 1);
  server.script.subscribeResult = () => ({ data: { pieces: 3 }, has_snapshot: true });
  const wire = open();
  wire.connect();
  const { snapshot, position } = await wire.channel("board").subscribe();
  assert.deepEqual(snapshot, { pieces: 3 });
  assert.deepEqual(position, { epoch: "e1", offset: 1 });
});

test("a listener that throws disturbs nobody", async (context) => {
  const complain = context.mock.method(console, "error", () => {});
  const wire = open();
  const channel = wire.channel("news");
  let heard = 0;
  channel.on("publication", () => {
    throw new Error("a listener's own fault");
  });
  channel.on("publication", () => heard++);
  wire.connect();
  await channel.subscribe();
  server.publish("news", 1);
  server.publish("news", 2);
  await until(() => heard === 2);
  assert.equal(complain.mock.callCount(), 2);
});

test("a wrong option is told at once", () => {
  assert.throws(() => new Everywire(server.url, { transports: ["pigeon"] }), { code: CLIENT.BAD_CALL });
  assert.throws(() => new Everywire(server.url, { transports: [] }), { code: CLIENT.BAD_CALL });
  assert.throws(() => new Everywire(server.url, { transports: ["websocket"], WebSocket: null }), { code: CLIENT.BAD_CALL });
  assert.throws(() => new Everywire(server.url, { shared: true, getToken: () => "t" }), { code: CLIENT.BAD_CALL });
});
