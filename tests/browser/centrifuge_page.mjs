// npm's `centrifuge` in Chromium, over every transport that it has, side by side in one page.
//
//     node centrifuge_page.mjs '{"secret", "page": URL, "cases": [{"transport", "protocol", "base"}]}'
//
// The page is of another origin than the servers that the cases name, so that everything goes by CORS. Prints what
// centrifuge_node.mjs prints; ends with 2 when the browser could not be run.

import { createRequire } from "node:module";
import { dirname, join } from "node:path";

import { chromium } from "playwright-core";

import { scenario } from "./centrifuge_scenario.mjs";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const DIST = join(dirname(createRequire(import.meta.url).resolve("centrifuge")), "..", "dist");

const { secret, page: url, cases } = JSON.parse(process.argv[2]);

let browser;
try {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: FLAGS });
} catch (error) {
  console.error(error);
  process.exit(2);
}

const context = await browser.newContext({ bypassCSP: true });
const page = await context.newPage();
await page.goto(`${url}/livez`);
await page.addScriptTag({ path: join(DIST, "centrifuge.js") });
await page.evaluate(() => (window.JsonCentrifuge = window.Centrifuge));
await page.addScriptTag({ path: join(DIST, "centrifuge.protobuf.js") });
await page.evaluate(`window.scenario = ${scenario}`);

const results = await page.evaluate(
  async ({ secret, cases }) => {
    const one = async ({ transport, protocol, base }) => {
      const Centrifuge = protocol === "protobuf" ? window.Centrifuge : window.JsonCentrifuge;
      try {
        return await window.scenario({ Centrifuge, base, transport, protocol, secret, options: {} });
      } catch (error) {
        return [{ name: "ran to its end", ok: false, detail: String(error?.stack ?? JSON.stringify(error)) }];
      }
    };
    return Promise.all(cases.map(one));
  },
  { secret, cases },
);
await browser.close();
const named = cases.map(({ transport, protocol }, index) => [`${transport} ${protocol}`, results[index]]);
process.stdout.write(JSON.stringify(Object.fromEntries(named)));
