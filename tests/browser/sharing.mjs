// Tabs that share one connection, in Chromium.
//
//     node sharing.mjs BASE_URL
//
// Tabs of one origin come, talk, are closed, and hang, while numbers are published from outside. Prints one JSON
// object: what each saw; ends with 2 when there is no browser.

import { serveModules, withBrowser } from "./pages.mjs";

const [base] = process.argv.slice(2);
const HANG_MS = 14_000;
const DEADLINE_MS = 30_000;
const sleep = (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs));

/** Runs in a page: connect, follow the room, and keep what comes. */
async function follow({ options, since }) {
  const { Everywire } = await import("/modules/clients/js/everywire.js");
  const wire = new Everywire(location.origin, { shared: "somebody", ...options });
  const room = wire.channel("room", { joinLeave: true, since });
  window.everywire = { wire, room, seen: [], gaps: [], losses: 0, trail: [] };
  room.on("publication", ({ data, offset }) => window.everywire.seen.push([offset, data]));
  room.on("gap", (gap) => window.everywire.gaps.push(gap));
  wire.on("disconnected", () => window.everywire.losses++);
  // What is told when something does not come to hold.
  const note = (what) => ({ type, ...event }) => {
    const { trail } = window.everywire;
    if (trail.push([new Date().toISOString().slice(14, 23), what, JSON.stringify(event).slice(0, 300)]) > 50) trail.shift();
  };
  for (const name of ["connected", "disconnected", "attempt", "error"]) wire.on(name, note(name));
  for (const name of ["subscribed", "unsubscribed", "gap", "error"]) room.on(name, note(`room ${name}`));
  wire.connect();
  await room.subscribe();
  return { isShared: wire.isShared, transport: wire.transport, client: wire.client };
}

async function until(holds, what, tell = () => "") {
  const endMs = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > endMs) throw new Error(`this never came to hold: ${what}\n${await tell()}`);
    await sleep(50);
  }
}

async function open(context, options = {}, since) {
  const page = await context.newPage();
  await page.goto(`${base}/livez`);
  return { page, ...(await page.evaluate(follow, { options, since })) };
}

const readers = async () => (await (await fetch(`${base}/channels/room/presence`)).json()).subscribers;
const count = ({ page }) => page.evaluate(() => window.everywire.seen.length);
const report = ({ page }) => page.evaluate(() => {
  const { seen, gaps, losses, wire } = window.everywire;
  return { seen, gaps, losses, state: wire.state };
});

/** How each tab stands, in words. */
async function stands(tabs, total) {
  const told = await Promise.all(tabs.map(({ page }) => page.evaluate(() => {
    const { seen, gaps, trail, wire, room } = window.everywire;
    const [first, last] = [seen[0]?.[0], seen.at(-1)?.[0]];
    return { seen: seen.length, first, last, gaps, state: wire.state, room: room.state, position: room.position, trail };
  })));
  return [`total: ${total}`, ...told.map((tab) => JSON.stringify(tab).replaceAll("[\"", "\n    [\""))].join("\n");
}

await withBrowser(async (browser) => {
  const context = await browser.newContext();
  await serveModules(context);
  const result = {};

  const tabs = [await open(context), await open(context), await open(context)];
  result.greetings = tabs.map(({ isShared, transport, client }) => ({ isShared, transport, client }));
  result.readers = await readers();
  let total = 0;
  await Promise.all(tabs.map(({ page }, tab) => page.evaluate(async (name) => {
    for (let index = 0; index < 10; index++) await window.everywire.room.publish(`${name} ${index}`);
  }, tab)));
  total += 30;
  await until(async () => (await Promise.all(tabs.map(count))).every((seen) => seen === total), "all heard all");
  result.presence = await tabs[1].page.evaluate(async () => Object.keys(await window.everywire.room.presence()));
  result.stats = await tabs[2].page.evaluate(() => window.everywire.room.presenceStats());

  // The tab that holds the connection is closed while numbers come.
  let isOver = false;
  const publishing = (async () => {
    const headers = { "Content-Type": "application/json" };
    while (!isOver) {
      await fetch(`${base}/channels/room`, { method: "POST", headers, body: String(total) });
      total += 1;
      await sleep(3);
    }
  })();
  await sleep(200);
  await tabs.shift().page.close();
  await sleep(500);
  tabs.push(await open(context, {}, { epoch: "", offset: 0 }));
  await sleep(300);
  await tabs.shift().page.close();
  await sleep(500);
  tabs.push(await open(context, { commandTimeoutMs: 1_000 }, { epoch: "", offset: 0 }));
  isOver = true;
  await publishing;
  await until(async () => (await Promise.all(tabs.map(count))).every((seen) => seen >= total), "all went on", () => stands(tabs, total));
  result.total = total;
  result.reports = await Promise.all(tabs.map(report));
  result.readersAfterwards = await readers();

  // The tab that holds it hangs; another takes it over as soon as it wants something and gets no answer.
  const [hanging, , other] = tabs;
  const hung = hanging.page.evaluate((hangMs) => {
    const endMs = Date.now() + hangMs;
    while (Date.now() < endMs);
  }, HANG_MS);
  const startedMs = Date.now();
  await sleep(100);
  await until(() => other.page.evaluate(() => window.everywire.room.publish("over").then(() => true, () => false)), "taken over");
  result.takenOverMs = Date.now() - startedMs;
  await hung;
  await until(async () => (await report(hanging)).seen.some(([, data]) => data === "over"), "the one that hung goes on");
  await until(async () => (await readers()) === 1, "one connection again");
  result.afterHanging = await report(hanging);
  await context.close();

  // Eight tabs of streams: HTTP/1.1 allows six connections to a host, so that without sharing nothing would load.
  const crowded = await browser.newContext();
  await serveModules(crowded);
  const options = { transports: ["http_stream"] };
  const crowd = [];
  for (let tab = 0; tab < 8; tab++) crowd.push(await open(crowded, options));
  const loads = await Promise.all(crowd.map(({ page }) => page.evaluate(async () => {
    const startedMs = performance.now();
    await (await fetch("/livez", { cache: "no-store" })).text();
    return performance.now() - startedMs;
  })));
  result.crowd = { transports: crowd.map(({ transport }) => transport), slowestMs: Math.max(...loads) };
  console.log(JSON.stringify(result));
});
