// npm's `sockjs-client` in Chromium: its transports side by side in one page.
//
//     node sockjs_page.mjs '{"port": N, "cases": [{"transport", "base", "name", "own"}]}'
//
// The page is http://localhost:N/, of another site than the servers that the cases name, so that everything goes by
// CORS or by iframes. A case with `own` gets a page at its server. Prints what sockjs_node.mjs prints, and under
// `foreign` which transports open from an origin that nobody allowed; ends with 2 when the browser could not be run.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { withBrowser } from "./pages.mjs";
import { scenario } from "./sockjs_scenario.mjs";

const LIBRARY = join(dirname(createRequire(import.meta.url).resolve("sockjs-client/package.json")), "dist/sockjs.js");
const { port, cases } = JSON.parse(process.argv[2]);

/** Serve empty pages; port 0 is any. */
async function pages(port) {
  const server = createServer((_, response) => response.setHeader("Content-Type", "text/html").end("<!doctype html>"));
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return server;
}

async function open(context, address) {
  const page = await context.newPage();
  await page.goto(address);
  await page.evaluate(await readFile(LIBRARY, "utf8"));
  await page.evaluate(`window.scenario = ${scenario}`);
  return page;
}

/** Runs in a page. */
async function runAll(cases) {
  return Promise.all(
    cases.map(async (one) => {
      const checks = [];
      const failed = (error) => checks.push({ name: "ran to its end", ok: false, detail: String(error?.stack ?? error) });
      await window.scenario({ SockJS: window.SockJS, ...one }, checks).catch(failed);
      return checks;
    }),
  );
}

/** Runs in a page of an origin that nobody allowed: how does each transport end? */
async function tryAll(cases) {
  const outcomes = cases.map(({ transport, base }) => {
    const sock = new window.SockJS(`${base}/echo`, null, { transports: [transport], timeout: 4_000 });
    return new Promise((resolve) => {
      sock.onopen = () => resolve([transport, "open"]);
      sock.onclose = () => resolve([transport, "refused"]);
    });
  });
  return Object.fromEntries(await Promise.all(outcomes));
}

const results = {};
const listed = await pages(port);
const foreign = await pages(0);
await withBrowser(async (browser) => {
  const context = await browser.newContext();
  // What iframes load by themselves.
  await context.route("**/sockjs*.js", async (route) =>
    route.fulfill({ contentType: "text/javascript", body: await readFile(LIBRARY, "utf8") }),
  );
  const shared = cases.filter((one) => !one.own);
  const own = cases.filter((one) => one.own);
  const all = [[`http://localhost:${listed.address().port}/`, shared], ...own.map((one) => [`${one.base}/livez`, [one]])];
  await Promise.all(
    all.map(async ([address, ours]) => {
      const checks = await (await open(context, address)).evaluate(runAll, ours);
      ours.forEach(({ name }, index) => (results[name] = checks[index]));
    }),
  );
  const page = await open(context, `http://localhost:${foreign.address().port}/`);
  results.foreign = await page.evaluate(tryAll, cases.filter((one) => !one.own));
});
listed.close();
foreign.close();
process.stdout.write(JSON.stringify(results), () => process.exit(0));
