// The race itself: a lane for each wire, a dot for each of its last publications, the sooner the further left.

import { latencyPlace, palette, surface } from "./canvas.js";
import { milliseconds, NONE } from "./format.js";
import { quantiles } from "./ring.js";

const SHOWN = 40;
const MARKS = [[1, "1 ms"], [10, "10 ms"], [100, "100 ms"], [1000, "1 s"], [10_000, "10 s"]];
const INSET = 10;

export class Track {
  #lanes;

  constructor(list, readers) {
    this.#lanes = readers.map((reader) => {
      const item = document.createElement("li");
      item.className = "lane";
      item.dataset.wire = reader.constructor.kind;
      const [name, figure] = ["lane-name", "lane-figure"].map((className) => {
        const span = document.createElement("span");
        span.className = className;
        return span;
      });
      const canvas = document.createElement("canvas");
      canvas.className = "lane-canvas";
      canvas.setAttribute("aria-hidden", "true");
      name.textContent = reader.constructor.title;
      item.append(name, canvas, figure);
      list.append(item);
      return { reader, item, canvas, figure };
    });
    this.recolour();
  }

  recolour() {
    for (const lane of this.#lanes) lane.colours = palette(lane.item);
  }

  draw() {
    for (const { reader, canvas, colours } of this.#lanes) {
      const area = surface(canvas);
      if (area) drawLane(area, reader, colours);
    }
  }

  write() {
    for (const { reader, figure } of this.#lanes) {
      const [median] = quantiles(reader.latencies().map(({ ms }) => ms), [0.5]);
      figure.textContent = median === null ? NONE : milliseconds(median);
    }
  }
}

/** The scale under the lanes. */
export function drawScale(canvas, colours) {
  const area = surface(canvas);
  if (!area) return;
  const { context, width } = area;
  context.fillStyle = colours.muted;
  context.font = colours.font;
  context.textBaseline = "top";
  MARKS.forEach(([ms, label], index) => {
    context.textAlign = index === 0 ? "left" : index === MARKS.length - 1 ? "right" : "center";
    const place = index === 0 ? 2 : index === MARKS.length - 1 ? width - 2 : across(ms, width);
    context.fillText(label, place, 3);
  });
}

const across = (ms, width) => INSET + latencyPlace(ms) * (width - 2 * INSET);

function drawLane({ context, width, height }, reader, colours) {
  const middle = height / 2;
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  context.beginPath();
  for (const [ms] of MARKS) {
    const place = Math.round(across(ms, width)) + 0.5;
    context.moveTo(place, 0);
    context.lineTo(place, height);
  }
  context.moveTo(0, Math.round(middle) + 0.5);
  context.lineTo(width, Math.round(middle) + 0.5);
  context.stroke();

  const latencies = reader.latencies().slice(-SHOWN);
  context.fillStyle = colours.wire;
  latencies.forEach(({ ms }, index) => {
    const isNewest = index === latencies.length - 1;
    context.globalAlpha = isNewest ? 1 : 0.1 + 0.35 * (index / SHOWN);
    context.beginPath();
    context.arc(across(ms, width), middle, isNewest ? 6 : 4, 0, 2 * Math.PI);
    context.fill();
  });
  context.globalAlpha = 1;
  const newest = latencies.at(-1);
  if (!newest) return;
  context.strokeStyle = colours.panel;
  context.lineWidth = 2;
  context.beginPath();
  context.arc(across(newest.ms, width), middle, 7, 0, 2 * Math.PI);
  context.stroke();
}
