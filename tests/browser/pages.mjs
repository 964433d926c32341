// A browser for tests of the JavaScript client, and its modules for pages of any origin.

import { readFile } from "node:fs/promises";

import { chromium } from "playwright-core";

const ROOT = new URL("../../", import.meta.url);
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];

/** Do something with a browser; ends the process with 2 when there is none. */
export async function withBrowser(act) {
  const browser = await chromium
    .launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: FLAGS })
    .catch((error) => {
      console.error(`Chromium did not start: ${error.message}`);
      process.exit(2);
    });
  try {
    return await act(browser);
  } finally {
    await browser.close();
  }
}

/** Answer `/modules/…` with this project's files, whatever origin the page is of. */
export async function serveModules(context) {
  await context.route("**/modules/**", async (route) => {
    const path = new URL(route.request().url()).pathname.slice("/modules/".length);
    await route.fulfill({ contentType: "text/javascript", body: await readFile(new URL(path, ROOT), "utf8") });
  });
}
