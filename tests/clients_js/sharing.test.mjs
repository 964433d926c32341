// What tabs that share a connection are told of a channel, where its log, the connection and the tabs are not at the
// same place: the relay of the tab that holds the connection, over a client and the scripted server.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { CLIENT, Everywire } from "../../clients/js/everywire.js";
import { Relay } from "../../clients/js/sharing/relay.js";
import { ScriptedServer, WebSocket } from "./scripted_server.mjs";
import { next, until } from "./until.mjs";

const KEPT = 250; // more than a relay keeps itself
const EPOCH = "e1";

let server;
let wire;
let relay;
/** What each tab was told. */
let told;

const hears = (tab) => (told[tab] ??= []);
const reply = async (tab, id) => {
  await until(() => hears(tab).some((reply) => reply.id === id), `a reply to ${tab}`);
  return hears(tab).find((reply) => reply.id === id);
};
const pushed = (tab) => hears(tab).filter(({ push }) => push?.pub).map(({ push }) => push.pub.offset);
const offsets = ({ publications }) => publications.map(({ offset }) => offset);
const range = (first, last) => [...Array(last - first + 1).keys()].map((index) => first + index);
const from = (offset, epoch = EPOCH) => ({ channel: "room", recover: true, epoch, offset });

beforeEach(async () => {
  told = {};
  server = await new ScriptedServer().start();
  for (let number = 1; number <= KEPT; number++) server.keep("room", number);
  wire = new Everywire(server.url, { WebSocket, transports: ["websocket"], minReconnectMs: 10, commandTimeoutMs: 300 });
  await wire.connect();
  relay = new Relay(wire, "room", {
    tell: (tabs, reply) => tabs.forEach((tab) => hears(tab).push(structuredClone(reply))),
    ended: () => {},
  });
  relay.join("first", 1, { channel: "room" });
  assert.equal((await reply("first", 1)).subscribe.offset, KEPT);
});

afterEach(async () => {
  wire.disconnect();
  await server.stop();
});

for (const epoch of [EPOCH, ""]) {
  test(`the history is ahead of what came, epoch ${JSON.stringify(epoch)}`, async () => {
    const ahead = [server.keep("room", "one"), server.keep("room", "two")];
    relay.join("second", 1, from(0, epoch));
    const { subscribe } = await reply("second", 1);
    assert.equal(subscribe.recovered, true);
    assert.deepEqual(offsets(subscribe), range(1, KEPT));
    for (const pub of ahead) server.push("room", pub);
    await until(() => pushed("second").length === 2);
    assert.deepEqual(pushed("second"), [KEPT + 1, KEPT + 2]);
    assert.deepEqual(pushed("first"), pushed("second"));
  });
}

test("what comes while the history is read is told once", async () => {
  server.script.command = (name) => {
    if (name === "history") server.publish("room", "meanwhile");
  };
  relay.join("second", 1, from(100));
  const { subscribe } = await reply("second", 1);
  await until(() => pushed("first").length === 1);
  assert.deepEqual([...offsets(subscribe), ...pushed("second")], range(101, KEPT + 1));
});

test("a tab that is ahead of the connection goes on from there", async () => {
  const ahead = [server.keep("room", "one"), server.keep("room", "two")];
  relay.join("second", 1, from(KEPT + 2));
  const { subscribe } = await reply("second", 1);
  assert.deepEqual([subscribe.recovered, subscribe.offset, subscribe.publications], [true, KEPT + 2, []]);
  for (const pub of ahead) server.push("room", pub);
  await until(() => pushed("second").length === 2); // it knows these, and leaves them out
});

for (const [what, since] of [["beyond the log", from(KEPT + 9)], ["of another log", from(3, "e0")]]) {
  test(`a position ${what} is told as such`, async () => {
    relay.join("second", 1, since);
    const { subscribe } = await reply("second", 1);
    assert.deepEqual([subscribe.was_recovering, subscribe.recovered, subscribe.offset], [true, undefined, KEPT]);
  });
}

test("a position of which not all is kept is told as such", async () => {
  server.trim("room", 100);
  relay.join("second", 1, from(3));
  const { subscribe } = await reply("second", 1);
  assert.deepEqual([subscribe.was_recovering, subscribe.recovered, subscribe.offset], [true, undefined, KEPT]);
});

test("a history that is not answered is no loss: the tab is to ask again", async () => {
  server.script.command = (name) => name === "history" && "ignore";
  relay.join("second", 1, from(0));
  const { error } = await reply("second", 1);
  assert.deepEqual([error.code, error.temporary], [CLIENT.TIMEOUT, true]);
  server.script.command = () => null;
  relay.join("second", 2, from(0));
  assert.deepEqual(offsets((await reply("second", 2)).subscribe), range(1, KEPT));
});

test("a connection that is lost while the history is read is no loss either", async () => {
  server.script.command = (name) => name === "history" && "ignore";
  relay.join("second", 1, from(0));
  await until(() => server.count("history") === 1);
  const again = next(wire, "connected");
  server.cut();
  // A code by which no tab waits for an ending that it may never hear of.
  assert.deepEqual([(await reply("second", 1)).error.code, (await reply("second", 1)).error.temporary], [CLIENT.TIMEOUT, true]);
  await again;
});

/** Let a tab ask for what it has missed, which the server answers later; returns what makes it answer. */
async function slowJoin(tab) {
  let held = [];
  server.script.command = (name, { channel }, session) => {
    if (name !== "history") return null;
    const { id } = server.asked.findLast(({ command }) => command.history).command;
    const publications = server.channel(channel).slice(0, KEPT);
    held.push(() => session.write([{ id, history: { publications, epoch: EPOCH, offset: publications.length } }]));
    return "ignore";
  };
  relay.join(tab, 1, from(0));
  await until(() => held.length === 1);
  return () => ((server.script.command = () => null), held.splice(0).forEach((answer) => answer()));
}

test("the only other tab leaves while one that comes is being answered", async () => {
  const answer = await slowJoin("second");
  relay.leave("first");
  answer();
  const { subscribe } = await reply("second", 1);
  assert.deepEqual([subscribe.recovered, subscribe.epoch], [true, EPOCH]);
  server.publish("room", "after");
  await until(() => pushed("second").length === 1);
});

test("a tab that leaves while it is being answered is told nothing more", async () => {
  const answer = await slowJoin("second");
  relay.leave("second");
  answer();
  server.publish("room", "after");
  await until(() => pushed("first").length === 1);
  assert.deepEqual(hears("second"), []);
  // And is not waited for: with the last one that follows, the channel is left.
  relay.leave("first");
  await until(() => server.count("unsubscribe") === 1);
});
