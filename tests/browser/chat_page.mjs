// The chat in Chromium, through several proxies at once: each in a page of its proxy's own origin.
//
//     node chat_page.mjs '{"name": {"url": …, "room": …, "holdMs": …}, …}'
//
// Prints one JSON object: by name what `chat` returned, or its error; ends with 2 when there is no browser.

import { serveModules, withBrowser } from "./pages.mjs";

const [cases] = process.argv.slice(2).map((text) => JSON.parse(text));

/** Runs in the page. */
async function talk(where) {
  const { Everywire } = await import("/modules/clients/js/everywire.js");
  const { chat } = await import("/modules/tests/clients_js/chat.mjs");
  const result = await chat(Everywire, where);
  return { ...result, remembered: { ...localStorage } };
}

await withBrowser(async (browser) => {
  const results = await Promise.all(Object.entries(cases).map(async ([name, where]) => {
    try {
      const context = await browser.newContext();
      await serveModules(context);
      const page = await context.newPage();
      await page.goto(`${where.url}/livez`);
      return [name, await page.evaluate(talk, where)];
    } catch (error) {
      return [name, { error: String(error.stack) }];
    }
  }));
  console.log(JSON.stringify(Object.fromEntries(results)));
});
