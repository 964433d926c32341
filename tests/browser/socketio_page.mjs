// npm's `socket.io-client` in Chromium: versions and modes side by side in one page.
//
//     node socketio_page.mjs '{"page": URL, "cases": [{"version", "mode", "base", "token", "user", "name", "jsonp"}]}'
//
// The page is of another origin than the servers that the cases name, so that everything goes by CORS. JSONP needs no
// CORS, and a case with it gets a page of its own at its server. Prints what socketio_node.mjs prints, and under
// `foreign` what JSONP gets from a page of another site; ends with 2 when the browser could not be run.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { withBrowser } from "./pages.mjs";
import { scenario } from "./socketio_scenario.mjs";

const require = createRequire(import.meta.url);
const { page: url, cases } = JSON.parse(process.argv[2]);

const script = (version) => join(dirname(require.resolve(`socket.io-client-${version}/package.json`)), "dist/socket.io.js");

/** Keep note of what a page asked for last, and how it went; returns a function that tells it. */
function watch(page) {
  const KEPT = 60;
  const trail = [];
  const note = (what, request, more = "") => {
    const { pathname, searchParams } = new URL(request.url());
    const asked = `${request.method()} ${pathname} j=${searchParams.get("j")} t=${searchParams.get("t")}`;
    const up = request.postDataBuffer()?.length ?? 0;
    if (trail.push(`${new Date().toISOString().slice(14, 23)} ${what} ${asked} ${up} up ${more}`) > KEPT) trail.shift();
  };
  page.on("request", (request) => note("asks", request));
  page.on("response", (response) => note("answer", response.request(), response.status()));
  page.on("requestfinished", (request) => note("finished", request));
  page.on("requestfailed", (request) => note("failed", request, request.failure()?.errorText));
  page.on("pageerror", (error) => trail.push(`error in the page: ${error}`));
  return () => trail.join("\n  ");
}

async function open(context, address) {
  const page = await context.newPage();
  await page.goto(address);
  await page.evaluate("window.versions = {}");
  for (const version of new Set(cases.map((one) => one.version))) {
    await page.addScriptTag({ path: script(version) });
    await page.evaluate((number) => (window.versions[number] = window.io), version);
  }
  await page.evaluate(`window.scenario = ${scenario}`);
  return page;
}

/** What a case says that ended before its end. */
const ABORTED = "ran to its end";

/** Runs in a page. */
async function runAll(cases) {
  return Promise.all(
    cases.map(async ({ jsonp, ...one }) => {
      const checks = [];
      const failed = (error) => checks.push({ name: "ran to its end", ok: false, detail: String(error?.stack ?? error) });
      const options = jsonp ? { forceJSONP: true } : {};
      await window.scenario({ io: window.versions[one.version], options, ...one }, checks).catch(failed);
      return checks;
    }),
  );
}

/** Runs in a page of another site: what becomes of a connection by JSONP? */
function tryJsonp(base) {
  const socket = window.versions[2](base, { transports: ["polling"], forceJSONP: true, reconnection: false, timeout: 3_000 });
  return new Promise((resolve) => {
    socket.on("connect", () => resolve("connected"));
    for (const event of ["connect_error", "connect_timeout", "error"]) socket.on(event, () => resolve("refused"));
  });
}

const results = {};
await withBrowser(async (browser) => {
  const context = await browser.newContext({ bypassCSP: true });
  const shared = cases.filter((one) => !one.jsonp);
  const own = cases.filter((one) => one.jsonp);
  const pages = [[url, shared], ...own.map((one) => [`${one.base}/livez`, [one]])];
  await Promise.all(
    pages.map(async ([address, ours]) => {
      const page = await open(context, address);
      const trail = watch(page);
      const checks = await page.evaluate(runAll, ours);
      ours.forEach(({ name }, index) => (results[name] = checks[index]));
      for (const check of checks.flat()) if (check.name === ABORTED) check.detail += `\n  ${new Date().toISOString()} ${trail()}`;
    }),
  );
  if (own.length) {
    const server = createServer((_, response) => response.setHeader("Content-Type", "text/html").end("<!doctype html>"));
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const page = await open(context, `http://localhost:${server.address().port}/`);
    results.foreign = await page.evaluate(tryJsonp, own[0].base);
    server.close();
  }
});
process.stdout.write(JSON.stringify(results), () => process.exit(0));
