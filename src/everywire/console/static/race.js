// The race page: one channel on five transports at once, each reader on its own wire.
//
// Connections: over HTTP/1.1 a browser opens at most six to one server. Poll (only while it asks), long poll,
// stream and event stream hold four and publishing needs a fifth; a WebSocket does not count among them.
// So one tab fits; how several share is in tabs.js, and a wire that has to wait says so in its card.

import { Announcer } from "./announce.js";
import { palette } from "./canvas.js";
import { Card } from "./card.js";
import { Course } from "./course.js";
import { seconds } from "./format.js";
import { setUpPublishing } from "./publish.js";
import { sleep } from "./sleep.js";
import { CostTable } from "./table.js";
import { shareConnections } from "./tabs.js";
import { drawScale, Track } from "./track.js";
import { STARVED, STARVED_AFTER_MS } from "./transports/answers.js";
import { LongPoll } from "./transports/longpoll.js";
import { Poll } from "./transports/poll.js";
import { ServerSentEvents } from "./transports/sse.js";
import { Stream } from "./transports/stream.js";
import { WebSocketReader } from "./transports/websocket.js";

const DRAW_EVERY_MS = 80;
const WRITE_EVERY_MS = 500;
const RETRY_START_MS = 3_000;

const byId = (id) => document.getElementById(id);
const channel = new URLSearchParams(location.search).get("channel")?.trim() || "machine";
const course = new Course(channel);
const readers = [Poll, LongPoll, Stream, ServerSentEvents, WebSocketReader].map((Kind) => new Kind(course));
const cards = readers.map((reader) => new Card(reader, byId("card")));
const track = new Track(byId("track"), readers);
const table = new CostTable(byId("costs"), readers);
const stillness = matchMedia("(prefers-reduced-motion: reduce)");

function setUpPage() {
  document.title = `${channel} · Everywire`;
  byId("channel").value = channel;
  byId("cards").prepend(...cards.map((card) => card.element));
  const announcer = new Announcer(byId("announcements"));
  course.addEventListener("state", ({ detail }) => {
    announcer.tell(detail);
    write();
  });
  addEventListener("themechange", recolour);
  addEventListener("online", () => readers.forEach((reader) => reader.nudge()));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) readers.forEach((reader) => reader.nudge());
  });
  recolour();
}

function recolour() {
  cards.forEach((card) => card.recolour());
  track.recolour();
}

// -- controls -----------------------------------------------------------------

function setUpControls() {
  const { interval } = course;
  const slider = byId("interval");
  const show = () => {
    slider.value = interval.ms / 1000;
    const origin = interval.isOwn ? "chosen here" : "the server’s hint";
    byId("interval-value").textContent = `${seconds(interval.ms)}, ${origin}`;
    slider.setAttribute("aria-valuetext", `${seconds(interval.ms)}, ${origin}`);
    byId("interval-hint").disabled = !interval.isOwn;
  };
  slider.addEventListener("input", () => interval.choose(slider.valueAsNumber * 1000));
  byId("interval-hint").addEventListener("click", () => {
    interval.useHint();
    slider.focus(); // the button is of no more use and cannot keep the focus
  });
  interval.addEventListener("change", show);
  show();
  byId("all").addEventListener("click", () => {
    const anyRuns = readers.some((reader) => reader.isRunning);
    readers.forEach((reader) => (anyRuns ? reader.pause() : reader.start()));
  });
  setUpPublishing(byId("publish"), course);
}

// -- what is shown -----------------------------------------------------------

function write() {
  cards.forEach((card) => card.write());
  track.write();
  table.write();
  const anyRuns = readers.some(({ isRunning, state }) => isRunning || state === "idle");
  byId("all").textContent = anyRuns ? "Pause all" : "Resume all";
  byId("all").disabled = readers.every((reader) => reader.state === "idle");
  byId("clock").textContent = course.clock.describe();
  byId("verdict").textContent = verdict();
}

function verdict() {
  if (readers.every(({ state }) => state === "idle")) return "Not started.";
  const reading = readers.filter(({ cost }) => cost.messages > 0);
  if (reading.length === 0) return "Waiting for the first publication.";
  const sum = (name) => reading.reduce((total, { cost }) => total + cost[name], 0);
  const [missed, doubled, gaps] = [sum("missed"), sum("doubled"), sum("gaps")];
  const told = gaps ? ` ${gaps} gap${gaps > 1 ? "s were" : " was"} told.` : "";
  if (missed || doubled) return `${missed} missed and ${doubled} doubled on ${reading.length} wires.${told}`;
  const all = reading.length === readers.length ? "all five" : `${reading.length} of five`;
  return `Nothing missed and nothing doubled on ${all} wires.${told}`;
}

let drawnAt = -Infinity;
function draw(frameAt) {
  requestAnimationFrame(draw);
  // Charts creep: a dozen frames a second are smooth, and the page must not be what loads the machine it shows.
  if (frameAt - drawnAt < (stillness.matches ? 1000 : DRAW_EVERY_MS)) return;
  drawnAt = frameAt;
  const now = course.clock.now();
  cards.forEach((card) => card.draw(now));
  track.draw();
  drawScale(byId("scale"), palette(byId("scale")));
}

// -- the start ----------------------------------------------------------------

async function begin() {
  for (;;) {
    const starving = setTimeout(() => problem(STARVED), STARVED_AFTER_MS);
    try {
      const start = await course.begin();
      problem("");
      readers.forEach((reader) => reader.prime(start));
      readers.forEach((reader) => reader.start());
      return;
    } catch (error) {
      problem(error.isFinal ? error.message : `${error.message} Trying again.`);
      if (error.isFinal) return;
    } finally {
      clearTimeout(starving);
    }
    await sleep(RETRY_START_MS);
  }
}

function problem(words) {
  byId("problem").textContent = words;
  byId("problem").hidden = words === "";
}

setUpPage();
setUpControls();
shareConnections(readers);
setInterval(write, WRITE_EVERY_MS);
requestAnimationFrame(draw);
begin();

// For the curious and for tests: what each wire received, to look at and not to touch.
globalThis.race = Object.freeze({
  snapshot: () =>
    readers.map((reader) => ({
      transport: reader.constructor.kind, state: reader.state, position: reader.position, ...reader.cost,
      offsets: [...reader.offsets], latenciesMs: reader.latencies().map(({ ms }) => ms),
    })),
});
