// An EventSource of several channels whose cable is pulled again and again, or one with a ticket.
//
//     node event_source.mjs URL CHANNELS LAST [TICKETS]
//
// Reads CHANNELS (`a,b,c`) by npm's `eventsource`, or in Chromium with ENGINE=chromium, until LAST came on each of
// them. With TICKETS, the value of an Authorization header, each EventSource gets a ticket of its own, and another
// one is made when it has stopped for good. Prints one JSON object: what each channel said, and how often it began.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const BROWSER = new URL("../../browser/", import.meta.url);
const [base, channels, last, authorization] = process.argv.slice(2);
const task = { base, channels: channels.split(","), last: Number(last), authorization };

/** Runs here, or in a page. */
async function readAll({ base, channels, last, authorization }) {
  const result = { seen: Object.fromEntries(channels.map((name) => [name, []])), opens: 0, sources: 0, ends: [], gaps: [] };
  let position = "earliest";

  async function address() {
    const url = new URL(`/channels/${channels.join(",")}`, base);
    url.searchParams.set("last_event_id", position);
    if (authorization) {
      // A cable that is pulled just now says nothing.
      const asked = { method: "POST", headers: { Authorization: authorization } };
      const answer = await fetch(new URL("/ticket", base), asked).catch(() => null);
      if (!answer) return null;
      url.searchParams.set("ticket", (await answer.json()).ticket);
    }
    return url.href;
  }

  const once = (url) => new Promise((resolve) => {
    const source = new EventSource(url);
    result.sources++;
    source.addEventListener("open", () => result.opens++);
    source.addEventListener("gap", (event) => result.gaps.push(event.data));
    source.addEventListener("error", (event) => {
      if (source.readyState !== EventSource.CLOSED) return;
      result.ends.push(event.code ?? "closed");
      resolve(false);
    });
    source.addEventListener("message", (event) => {
      const { channel, data } = JSON.parse(event.data);
      position = event.lastEventId;
      result.seen[channel].push(data);
      if (Object.values(result.seen).every((values) => values.at(-1) === last)) {
        source.close();
        resolve(true);
      }
    });
  });

  for (let done = false; !done; ) {
    const url = await address();
    done = url !== null && (await once(url));
    if (!done) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return result;
}

async function inChromium() {
  const { withBrowser } = await import(new URL("pages.mjs", BROWSER));
  return withBrowser(async (browser) => {
    const page = await (await browser.newContext()).newPage();
    await page.goto(new URL("/livez", base).href);
    console.error("ready");
    return page.evaluate(readAll, task);
  });
}

async function inNode() {
  const require = createRequire(fileURLToPath(new URL("package.json", BROWSER)));
  globalThis.EventSource = require("eventsource").EventSource;
  console.error("ready");
  return readAll(task);
}

console.log(JSON.stringify(await (process.env.ENGINE === "chromium" ? inChromium() : inNode())));
process.exit(0);
