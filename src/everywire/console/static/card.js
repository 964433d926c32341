// One wire's card: what it shows, and its pause button.

import { palette } from "./canvas.js";
import { drawChart, drawSparkline } from "./chart.js";
import { bytes, count, figure, milliseconds, NONE, oneLine } from "./format.js";
import { quantiles } from "./ring.js";

const WORDS = {
  idle: "Not started", connecting: "Connecting", live: "Live", waiting: "Trying again", paused: "Paused",
  stopped: "Stopped",
};

const VERBS = { paused: "Resume", stopped: "Try again" };
const UNSEEN_EVERY_MS = 1000;

export class Card {
  #fields = {};
  #written = new Map();
  #isVisible = true;
  #drawnAt = -Infinity;

  constructor(reader, template) {
    const { kind, title, how, curl } = reader.constructor;
    this.reader = reader;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.dataset.wire = kind;
    this.element.setAttribute("aria-labelledby", `wire-${kind}`);
    for (const field of this.element.querySelectorAll("[data-field]")) this.#fields[field.dataset.field] = field;
    const { name, subtitle, button, command, chart } = this.#fields;
    name.id = `wire-${kind}`;
    name.textContent = title;
    subtitle.textContent = how;
    command.textContent = curl(reader.course.url(), reader.course.channel);
    chart.setAttribute("aria-label", `The last minute of the channel as ${title} brought it`);
    button.addEventListener("click", () => (reader.isRunning ? reader.pause() : reader.start()));
    new IntersectionObserver(([entry]) => (this.#isVisible = entry.isIntersecting)).observe(this.element);
  }

  /** When the card is in the document or the theme changed. */
  recolour() {
    this.colours = palette(this.element);
  }

  draw(now) {
    if (now - this.#drawnAt < (this.#isVisible ? 0 : UNSEEN_EVERY_MS)) return;
    this.#drawnAt = now;
    drawChart(this.#fields.chart, this.reader, this.colours, now);
    drawSparkline(this.#fields.sparkline, this.reader, this.colours, now);
  }

  write() {
    const { reader } = this;
    const { cost, series } = reader;
    const [median, p95] = quantiles(reader.latencies().map(({ ms }) => ms), [0.5, 0.95]);
    const newest = lastOf(reader);
    this.element.dataset.state = reader.state;
    this.#set("state", WORDS[reader.state]);
    this.#set("verb", VERBS[reader.state] ?? "Pause");
    this.#set("of", ` ${reader.constructor.title}`);
    this.#fields.button.disabled = reader.state === "idle"; // the race begins for all at one position
    this.#set("label", series?.label ?? (reader.data === undefined ? "" : "No figure in the data"));
    this.#set("value", series && newest ? figure(newest.a, series.unit) : "");
    this.#set("other-label", series?.otherLabel ?? "");
    this.#set("other-value", series?.otherLabel && newest ? figure(newest.b, series.unit) : "");
    this.#set("median", milliseconds(median));
    this.#set("p95", milliseconds(p95));
    this.#set("messages", count(cost.messages));
    this.#set("requests", count(cost.requests));
    this.#set("empty", count(cost.empty));
    this.#set("header", bytes(cost.headerSent + cost.headerReceived));
    this.#set("payload", bytes(cost.payload));
    this.#set("behind", this.#behind());
    this.#set("reconnects", count(cost.reconnects));
    this.#set("gaps", count(cost.gaps));
    this.#set("faults", `${count(cost.missed)} / ${count(cost.doubled)}`);
    this.#set("last", reader.data === undefined ? "Nothing received yet" : this.#last());
    this.#set("detail", reader.detail || quiet(reader) || reader.note);
  }

  #last() {
    const { offset, data } = this.reader;
    return `${offset === null ? "" : `#${offset} `}${oneLine(data)}`;
  }

  #behind() {
    const { offset, course } = this.reader;
    return offset === null ? NONE : count(Math.max(0, course.ledger.head - offset));
  }

  /** Write only what changed: assistive software and the browser are spared the rest. */
  #set(name, text) {
    if (this.#written.get(name) === text) return;
    this.#written.set(name, text);
    this.#fields[name].textContent = text;
  }
}

function lastOf(reader) {
  for (let index = -1; index >= -reader.points.length; index--) {
    const point = reader.points.at(index);
    if (point.key !== null && point.key === reader.series?.key) return point;
  }
  return null;
}

function quiet(reader) {
  return reader.state === "live" && reader.unplaced > 3
    ? "An SSE event carries no time or offset: latency is known when the stream or the WebSocket runs too."
    : "";
}
