// The race page in a real browser.
//
//     node race_page.mjs BASE_URL SCREENSHOT.png
//
// BASE_URL, with a slash at the end if it has a path, serves the page and a channel `machine` that is published to
// about once a second. Chromium is taken from
// the environment variable CHROMIUM, or /usr/bin/chromium. The screenshot is dark; a light one and one of a
// 360 px wide window are written beside it. Prints one JSON object with what was found; ends with 0 when every
// check held, 1 when one did not, 2 when it could not be run.

import { chromium } from "playwright-core";

const WIRES = ["poll", "long-poll", "stream", "sse", "websocket"];
const LEAST_MESSAGES = 5;
const LIVENESS_MS = 60_000;
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

const [base, screenshot] = process.argv.slice(2);
if (!base || !screenshot) {
  console.error("usage: node race_page.mjs BASE_URL SCREENSHOT.png");
  process.exit(2);
}

const result = { ok: false, checks: {}, problems: [], wires: {} };
const check = (name, holds, words = "") => {
  result.checks[name] = Boolean(holds);
  if (!holds) result.problems.push(`${name}${words && `: ${words}`}`);
};
const snapshot = (page) => page.evaluate(() => globalThis.race.snapshot());

/** Ask again until `holds(value)`, or give the last value after the deadline. */
async function until(ask, holds, deadlineMs = LIVENESS_MS) {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const value = await ask();
    if (holds(value) || Date.now() > end) return value;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

async function checkReceiving(page) {
  const enough = (wires) => wires.every(({ offsets }) => offsets.length >= LEAST_MESSAGES);
  const wires = await until(() => snapshot(page), enough);
  check("five wires", JSON.stringify(wires.map(({ transport }) => transport)) === JSON.stringify(WIRES));
  for (const wire of wires) {
    const { transport, state, offsets, messages, requests, gaps, missed, doubled, latenciesMs } = wire;
    result.wires[transport] = { ...wire, position: undefined };
    check(`${transport} received`, messages >= LEAST_MESSAGES, `${messages} messages`);
    check(`${transport} is live`, state === "live", state);
    check(`${transport} without gap`, gaps + missed + doubled === 0, JSON.stringify({ gaps, missed, doubled }));
    check(`${transport} knows latency`, latenciesMs.length > 0);
    check(`${transport} counts requests`, requests >= 1 && (transport.endsWith("poll") || requests === 1), requests);
  }
  const first = Math.max(...wires.map(({ offsets }) => offsets[0]));
  const last = Math.min(...wires.map(({ offsets }) => offsets.at(-1)));
  const common = wires.map(({ offsets }) => offsets.filter((offset) => offset >= first && offset <= last));
  const expected = Array.from({ length: last - first + 1 }, (_, index) => first + index);
  check("same offsets on all wires", expected.length >= LEAST_MESSAGES - 1 &&
    common.every((offsets) => JSON.stringify(offsets) === JSON.stringify(expected)), JSON.stringify(common));
  check("all began at the same publication", wires.every(({ offsets }) => offsets[0] === wires[0].offsets[0]));
}

async function checkCardsShow(page) {
  const shown = (wire) => page.locator(`article[data-wire="${wire}"] [data-field="messages"]`).textContent();
  for (const wire of WIRES) {
    const text = await until(() => shown(wire), (figure) => Number(figure) >= LEAST_MESSAGES, 5000);
    check(`${wire} card shows its messages`, Number(text) >= LEAST_MESSAGES, text);
    const inked = await page.locator(`article[data-wire="${wire}"] canvas.chart`).evaluate((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return new Set(new Uint32Array(data.buffer)).size;
    });
    check(`${wire} chart is drawn`, inked > 8, `${inked} colours`);
  }
}

/** From the top of the page, Tab must reach each pause button; Space pauses that wire alone and resumes it. */
async function checkKeyboard(page) {
  const focused = () => page.evaluate(() => {
    const element = document.activeElement;
    const isButton = element?.dataset?.field === "button";
    return isButton ? element.closest("article").dataset.wire : null;
  });
  const state = async (wire) => (await snapshot(page)).find(({ transport }) => transport === wire).state;
  const reached = [];
  await page.evaluate(() => document.activeElement?.blur());
  for (let presses = 0; presses < 60 && reached.length < WIRES.length; presses++) {
    await page.keyboard.press("Tab");
    const wire = await focused();
    if (wire === null) continue;
    reached.push(wire);
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    check(`focus on ${wire} is visible`, outline !== "none", outline);
    await page.keyboard.press("Space");
    check(`Space pauses ${wire}`, (await until(() => state(wire), (now) => now === "paused", 5000)) === "paused");
    const paused = (await snapshot(page)).filter((reader) => reader.state === "paused");
    check(`only ${wire} paused`, paused.length === 1);
    await page.keyboard.press("Space");
    check(`Space resumes ${wire}`, (await until(() => state(wire), (now) => now === "live")) === "live");
  }
  check("Tab reaches all pause buttons", JSON.stringify(reached) === JSON.stringify(WIRES), reached.join());
}

/** After pause and resume nothing is missing. */
async function checkResumed(page) {
  const before = (await snapshot(page)).map(({ messages }) => messages);
  const grown = (wires) => wires.every(({ messages }, index) => messages > before[index] + 1);
  const wires = await until(() => snapshot(page), grown);
  check("all go on after a pause", grown(wires));
  check("nothing lost by a pause", wires.every(({ gaps, missed, doubled }) => gaps + missed + doubled === 0));
}

async function checkPublishing(page) {
  await page.getByLabel("Data: JSON, or any text").fill("a text, not JSON");
  await page.getByRole("button", { name: "Publish" }).press("Enter");
  const said = () => page.locator("#publish output").textContent();
  const words = await until(said, (text) => text !== "", 10_000);
  check("publishing is told", /^Published as number \d+/.test(words), words);
  const offset = Number(words.match(/\d+/)?.[0]);
  const all = (wires) => wires.every(({ offsets }) => offsets.includes(offset));
  check("published message on all wires", all(await until(() => snapshot(page), all)));
}

async function checkAppearance(page) {
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const lightness = async () => (await background()).match(/\d+/g).slice(0, 3).reduce((sum, part) => sum + +part, 0) / 3;
  check("dark as the system says", (await lightness()) < 60, await background());
  await page.screenshot({ path: screenshot, fullPage: true });
  await page.emulateMedia({ colorScheme: "light" });
  check("light as the system says", (await lightness()) > 200, await background());
  await page.waitForTimeout(1500); // charts beyond the window are drawn once a second
  await page.screenshot({ path: beside("light"), fullPage: true });
  const theme = page.getByRole("button", { name: /^Theme/ });
  await theme.click();
  await theme.click();
  check("dark by the button", (await lightness()) < 60 && (await theme.textContent()) === "Theme: dark");
  await page.emulateMedia({ reducedMotion: "reduce" });
  await page.setViewportSize({ width: 360, height: 740 });
  await page.waitForTimeout(1500);
  const excess = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  check("fits 360 px", excess <= 0, `${excess} px too wide`);
  await page.screenshot({ path: beside("narrow"), fullPage: true });
}

const beside = (name) => screenshot.replace(/(\.png)?$/, `-${name}.png`);

const browser = await chromium
  .launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: FLAGS })
  .catch((error) => {
    console.error(`Chromium did not start: ${error.message}`);
    process.exit(2);
  });
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 }, colorScheme: "dark" });
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(`page error: ${error.message}`));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(`console: ${message.text()}`);
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    addEventListener("securitypolicyviolation", (event) =>
      globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  const answer = await page.goto(new URL("?channel=machine", base).href);
  const policy = answer.headers()["content-security-policy"] ?? "";
  check("strict policy", policy.includes("default-src 'none'") && !policy.includes("unsafe"), policy);
  await checkReceiving(page);
  await checkCardsShow(page);
  await checkAppearance(page);
  await page.setViewportSize({ width: 1440, height: 900 });
  await checkKeyboard(page);
  await checkResumed(page);
  await checkPublishing(page);
  const violations = await page.evaluate(() => globalThis.violations);
  check("no page or console errors", complaints.length === 0, complaints.join(" | "));
  check("no policy violations", violations.length === 0, violations.join(" | "));
} catch (error) {
  result.problems.push(`stopped: ${error.message}`);
} finally {
  await browser.close();
}
result.ok = result.problems.length === 0;
console.log(JSON.stringify(result, null, 2));
process.exitCode = result.ok ? 0 : 1;
