// Who may do what, over each transport, against the real server.
//
//     node access.mjs BASE_URL SECRET
//
// Prints one JSON object by transport: what each user met. What is expected stands in tests/e2e/test_js_access.py.

import { createHmac } from "node:crypto";

import { Everywire, TRANSPORTS } from "../../clients/js/everywire.js";
import { WebSocket } from "./scripted_server.mjs";
import { next, sleep, until } from "./until.mjs";

const [base, secret] = process.argv.slice(2);

const encoded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

function token(user, { lastsS = 600, ...claims } = {}) {
  const head = `${encoded({ alg: "HS256" })}.${encoded({ sub: user, exp: Date.now() / 1000 + lastsS, ...claims })}`;
  return `${head}.${createHmac("sha256", secret).update(head).digest("base64url")}`;
}

const told = (error) => ({ code: error.code, message: error.message });

class Run {
  wires = [];

  constructor(transport) {
    this.transport = transport;
  }

  open(options) {
    const wire = new Everywire(base, {
      WebSocket, transports: [this.transport], minReconnectMs: 20, maxReconnectMs: 100, ...options,
    });
    wire.losses = [];
    wire.on("disconnected", ({ code, willReconnect }) => wire.losses.push({ code, willReconnect }));
    this.wires.push(wire);
    return wire;
  }

  name(name) {
    return `${name}-${this.transport}`;
  }

  /** Tokens of three seconds, for six: nothing is interrupted. */
  async short() {
    let tokens = 0;
    const user = this.name("short");
    const wire = this.open({ getToken: () => (tokens++, token(user, { lastsS: 3 })) });
    const inbox = wire.channel(`inbox:${user}`);
    const seen = [];
    inbox.on("publication", ({ data }) => seen.push(data));
    await wire.connect();
    await inbox.subscribe();
    for (let number = 0; number < 12; number++) {
      await inbox.publish(number);
      await sleep(500);
    }
    await until(() => seen.length === 12);
    return { seen, tokens, losses: [...wire.losses] };
  }

  /** An expired token, and then a good one; a subscription's the same. */
  async expired() {
    const given = [-10, 600];
    const channelGiven = [-10, 600];
    const user = this.name("late");
    const wire = this.open({ getToken: () => token(user, { lastsS: given.shift() }) });
    await wire.connect();
    const closed = this.name("closed");
    const channel = wire.channel(closed, {
      getToken: () => token(user, { lastsS: channelGiven.shift(), channel: closed }), minResubscribeMs: 10,
    });
    const { outcome } = await channel.subscribe();
    return { left: given.length + channelGiven.length, outcome, attempts: wire.attempts.map(({ outcome }) => outcome) };
  }

  /** Without getToken, an expired or forged token ends it after one attempt. */
  async bad() {
    const found = {};
    for (const [name, credential] of Object.entries({
      forged: `${token("ann").slice(0, -6)}AAAAAA`, expired: token("ann", { lastsS: -10 }),
    })) {
      const wire = this.open({ token: credential });
      const error = await wire.connect().then(() => null, told);
      await sleep(150);
      found[name] = { code: error.code, state: wire.state, attempts: wire.attempts.length };
    }
    return found;
  }

  async others() {
    const wire = this.open({ token: token("ann") });
    await wire.connect();
    const subscribe = await wire.channel("inbox:bob").subscribe().then(() => null, told);
    const publish = await wire.publish("inbox:bob", 1).then(() => null, told);
    const history = await wire.history("inbox:bob").then(() => null, told);
    const presence = await wire.presence("inbox:bob").then(() => null, told);
    const foreign = await wire.channel("closed", { token: token("bob", { channel: "closed" }) }).subscribe()
      .then(() => null, told);
    await until(() => wire.state !== "connecting");
    return { codes: [subscribe, publish, history, presence].map(({ code }) => code), foreign: foreign.code };
  }

  /** A user who is blocked while connected does not come back. */
  async blocked() {
    const user = this.name("eve");
    const wire = this.open({ token: token(user) });
    await wire.connect();
    await wire.channel(`inbox:${user}`).subscribe();
    wire.rpc("block").catch(() => {});
    await until(() => wire.state === "disconnected");
    const attempts = wire.attempts.length;
    await sleep(200);
    return { losses: [...wire.losses], isQuiet: wire.attempts.length === attempts };
  }

  async ticket() {
    const user = this.name("tim");
    const getTicket = async () => {
      const answer = await fetch(`${base}/ticket`, { method: "POST", headers: { Authorization: `Bearer ${token(user)}` } });
      return (await answer.json()).ticket;
    };
    const wire = this.open({ getTicket });
    await wire.connect();
    await wire.channel(`inbox:${user}`).subscribe();
    wire.reconnect();
    await next(wire, "connected");
    return { user: await wire.rpc("who") };
  }

  /** Server-side subscriptions, a snapshot, the application's messages, joins and leaves. */
  async application() {
    const user = this.name("pat");
    const mine = `mine-${user}`;
    const wire = this.open({ token: token(user, { channels: [mine] }) });
    const seen = [];
    const messages = [];
    const presence = [];
    wire.on("publication", ({ channel, data }) => seen.push([channel, data]));
    wire.on("message", ({ data }) => messages.push(data));
    const board = wire.channel(this.name("board"), { joinLeave: true });
    for (const name of ["join", "leave"]) board.on(name, ({ info }) => presence.push([name, info.user]));
    await wire.connect();
    const { snapshot } = await board.subscribe();
    const friend = this.open({ token: token(`friend-of-${user}`) });
    await friend.connect();
    await friend.channel(board.name).subscribe();
    await wire.rpc("publish", { channel: mine, data: "for you" });
    await until(() => seen.length === 1);
    await wire.send("hello");
    const isPoll = this.transport.endsWith("poll");
    if (!isPoll) await until(() => messages.length === 1 && presence.some(([name, who]) => name === "join" && who.startsWith("friend")));
    friend.disconnect();
    if (!isPoll) await until(() => presence.some(([name, who]) => name === "leave" && who.startsWith("friend")));
    await until(async () => Object.keys(await board.presence()).length === 1);
    return { snapshot, seen, messages, presence };
  }
}

const STEPS = ["short", "expired", "bad", "others", "blocked", "ticket", "application"];
const result = {};
await Promise.all(TRANSPORTS.map(async (transport) => {
  result[transport] = {};
  await Promise.all(STEPS.map(async (step) => {
    const run = new Run(transport);
    result[transport][step] = await run[step]().catch((error) => ({ error: String(error.stack) }));
    for (const wire of run.wires) wire.disconnect();
  }));
}));
console.log(JSON.stringify(result));
