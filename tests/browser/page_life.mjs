// What happens to pages, in Chromium: no WebSocket, no streaming fetch, frozen, offline, reloaded.
//
//     node page_life.mjs BASE_URL
//
// Prints one JSON object; ends with 2 when there is no browser.

import { serveModules, withBrowser } from "./pages.mjs";

const [base] = process.argv.slice(2);
const sleep = (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs));

/** Runs in a page: connect, and follow the channel `life`. */
async function follow({ token, ...options }) {
  const { Everywire } = await import("/modules/clients/js/everywire.js");
  if (token) {
    const headers = { Authorization: `Bearer ${token}` };
    options.getTicket = async () => (await (await fetch("/ticket", { method: "POST", headers })).json()).ticket;
  }
  const wire = new Everywire(location.origin, options);
  window.everywire = { wire, seen: [], losses: [] };
  wire.on("disconnected", ({ reason }) => window.everywire.losses.push(reason));
  const channel = wire.channel("life");
  channel.on("publication", ({ data }) => window.everywire.seen.push(data));
  const startedMs = performance.now();
  await wire.connect();
  const connectMs = performance.now() - startedMs;
  await channel.subscribe();
  return { transport: wire.transport, connectMs, tried: wire.attempts.map(({ transport }) => transport) };
}

async function open(context, options = {}, prepare = () => {}) {
  const page = await context.newPage();
  await page.goto(`${base}/livez`);
  await page.evaluate(prepare);
  return { page, ...(await page.evaluate(follow, options)) };
}

async function publish(...values) {
  const headers = { "Content-Type": "application/json" };
  for (const value of values) await fetch(`${base}/channels/life`, { method: "POST", headers, body: JSON.stringify(value) });
}

/** How long it takes until a page has seen this. */
async function seen({ page }, value) {
  const startedMs = Date.now();
  await page.waitForFunction((wanted) => window.everywire.seen.includes(wanted), value, { polling: 20, timeout: 20_000 });
  return Date.now() - startedMs;
}

const state = ({ page }) => page.evaluate(() => {
  const { wire, seen, losses } = window.everywire;
  return { state: wire.state, transport: wire.transport, seen, losses };
});

await withBrowser(async (browser) => {
  const result = {};
  const fresh = async () => {
    const context = await browser.newContext();
    await serveModules(context);
    return context;
  };

  const bare = await open(await fresh(), {}, () => delete window.WebSocket);
  result.withoutWebSocket = { transport: bare.transport, connectMs: bare.connectMs };

  // EventSource, with nothing but a URL to say who one is.
  const encoded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const token = `${encoded({ alg: "HS256" })}.${encoded({ sub: "tim" })}.${encoded("unchecked in development")}`;
  const old = await open(await fresh(), { token }, () => {
    delete window.WebSocket;
    delete window.TextDecoderStream;
  });
  await publish("for old browsers");
  await seen(old, "for old browsers");
  const users = await old.page.evaluate(async () => {
    const present = await window.everywire.wire.presence("life");
    return Object.values(present).map(({ user }) => user);
  });
  result.withoutStreams = { transport: old.transport, users, ...(await state(old)) };

  // Frozen, as phones do with pages nobody looks at; thawed it goes on at once.
  const frozen = await open(await fresh());
  const devtools = await frozen.page.context().newCDPSession(frozen.page);
  await devtools.send("Page.setWebLifecycleState", { state: "frozen" });
  await publish(...Array.from({ length: 50 }, (_, index) => index));
  await sleep(1_000);
  await devtools.send("Page.setWebLifecycleState", { state: "active" });
  result.frozen = { afterMs: await seen(frozen, 49), ...(await state(frozen)) };

  // Offline: what waits for a minute comes back with `online`.
  const context = await fresh();
  const away = await open(context, { transports: ["long-poll"], minReconnectMs: 60_000, maxReconnectMs: 60_000 });
  await context.setOffline(true);
  // A poll that is held may be seen to its end before the page finds out.
  await away.page.waitForFunction(() => window.everywire.wire.state === "connecting", null, { timeout: 40_000 });
  await publish("while away");
  await context.setOffline(false);
  result.offline = { afterMs: await seen(away, "while away"), ...(await state(away)) };

  // What worked is remembered for the next page.
  const blocked = await fresh();
  const silence = () => {
    const Real = window.WebSocket;
    window.WebSocket = class extends Real {
      set onmessage(_) {}
    };
  };
  const first = await open(blocked, {}, silence);
  const second = await open(blocked, {}, silence);
  result.remembered = [first, second].map(({ transport, tried, connectMs }) => ({ transport, tried, connectMs }));
  console.log(JSON.stringify(result));
});
