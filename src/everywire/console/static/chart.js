// A card's chart: the last minute as this wire brought it. The right edge is now, a publication stands at the
// time it was published, so the distance between a line's end and the edge is what the wire still owes.
// Below it the wire itself: requests, empty answers, messages, each at the moment it happened.

import { surface, latencyPlace } from "./canvas.js";

export const SPAN_MS = 60_000;
const LANE = 18;
const TOP = 6;
const RIGHT = 6;

export function drawChart(canvas, reader, colours, now) {
  const area = surface(canvas);
  if (!area) return;
  const { context, width, height } = area;
  const bottom = height - LANE - 6;
  const x = (at) => width - RIGHT - ((now - at) / SPAN_MS) * (width - RIGHT);
  const key = reader.series?.key ?? null;
  const points = placed(reader).filter((point) => point.at > now - SPAN_MS - 5000);
  const scale = scaleOf(points, key, reader.series?.isPercent);
  const y = (value) => bottom - ((value - scale.low) / (scale.high - scale.low)) * (bottom - TOP);

  grid(context, { width, bottom, x, y, scale, now, colours });
  if (key !== null) {
    const same = points.filter((point) => point.key === key);
    trace(context, same, "b", { x, y, bottom, colour: colours.second, width: 1.25 });
    trace(context, same, "a", { x, y, bottom, colour: colours.wire, width: 1.75, isFilled: true });
  }
  others(context, points.filter((point) => point.key === null || point.key !== key), { x, bottom, colours });
  labels(context, scale, bottom, colours);
  lane(context, reader.activity, { x, height, width, now, colours });
}

/** Points at our time, by what is known of the server's clock now. */
function placed({ points, course }) {
  const { offset } = course.clock;
  return [...points].map((point) => (point.time === undefined ? point : { ...point, at: point.time - offset }));
}

function scaleOf(points, key, isPercent) {
  if (isPercent) return { low: 0, high: 100, unit: " %" };
  let low = Infinity;
  let high = -Infinity;
  for (const point of points) {
    if (point.key !== key || point.a === null) continue;
    low = Math.min(low, point.a);
    high = Math.max(high, point.a);
  }
  if (low > high) return { low: 0, high: 1, isEmpty: true };
  const room = (high - low) * 0.1 || Math.abs(high) * 0.1 || 1;
  return { low: low - room, high: high + room, unit: "" };
}

function grid(context, { width, bottom, x, y, scale, now, colours }) {
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  context.beginPath();
  for (let at = Math.ceil((now - SPAN_MS) / 10_000) * 10_000; at < now; at += 10_000) {
    const place = Math.round(x(at)) + 0.5;
    context.moveTo(place, TOP);
    context.lineTo(place, bottom);
  }
  const middle = (scale.low + scale.high) / 2;
  for (const value of [scale.low, middle, scale.high]) {
    const place = Math.round(y(value)) + 0.5;
    context.moveTo(0, place);
    context.lineTo(width, place);
  }
  context.stroke();
}

/** The ends of the scale, written last and with a rim so that a line behind them does not hide them. */
function labels(context, scale, bottom, colours) {
  if (scale.isEmpty) return;
  context.font = colours.font;
  context.fillStyle = colours.muted;
  context.strokeStyle = colours.panel;
  context.lineWidth = 4;
  context.lineJoin = "round";
  for (const [value, baseline, y] of [[scale.high, "top", TOP + 3], [scale.low, "bottom", bottom - 2]]) {
    const text = `${Number(value.toPrecision(3))}${value === 0 ? "" : scale.unit}`.replace("-", "−");
    context.textBaseline = baseline;
    context.strokeText(text, 2, y);
    context.fillText(text, 2, y);
  }
}

/** One line, its history fainter than what this wire has brought itself. */
function trace(context, points, field, { x, y, bottom, colour, width, isFilled = false }) {
  const live = points.findIndex((point) => !point.isHistory);
  const split = live === -1 ? points.length : live;
  const parts = [[points.slice(0, split + 1), 0.38], [points.slice(split), 1]];
  for (const [part, strength] of parts) {
    const known = part.filter((point) => point[field] !== null);
    if (known.length === 0) continue;
    const line = new Path2D();
    known.forEach((point, index) =>
      index === 0 ? line.moveTo(x(point.at), y(point[field])) : line.lineTo(x(point.at), y(point[field])),
    );
    if (isFilled) {
      const under = new Path2D(line);
      under.lineTo(x(known.at(-1).at), bottom);
      under.lineTo(x(known[0].at), bottom);
      context.globalAlpha = 0.13 * strength;
      context.fillStyle = colour;
      context.fill(under);
    }
    context.globalAlpha = strength;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.lineJoin = "round";
    context.stroke(line);
  }
  context.globalAlpha = 1;
  const last = points.at(-1);
  if (!last || last[field] === null) return;
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x(last.at), y(last[field]), isFilled ? 3.2 : 2.2, 0, 2 * Math.PI);
  context.fill();
}

/** Publications without the figure drawn here: a diamond on a stem. */
function others(context, points, { x, bottom, colours }) {
  context.strokeStyle = context.fillStyle = colours.text;
  context.lineWidth = 1;
  for (const { at, isHistory } of points) {
    const place = x(at);
    context.globalAlpha = isHistory ? 0.3 : 0.8;
    context.beginPath();
    context.moveTo(place, bottom);
    context.lineTo(place, bottom - 12);
    context.stroke();
    context.beginPath();
    context.moveTo(place, bottom - 19);
    context.lineTo(place + 3.5, bottom - 15.5);
    context.lineTo(place, bottom - 12);
    context.lineTo(place - 3.5, bottom - 15.5);
    context.fill();
  }
  context.globalAlpha = 1;
}

/** What passes over the wire: requests from below, messages filled, empty answers hollow, gaps in red. */
function lane(context, activity, { x, height, width, now, colours }) {
  const middle = Math.round(height - LANE / 2) + 0.5;
  context.lineWidth = 1;
  context.strokeStyle = colours.line;
  context.beginPath();
  context.moveTo(0, middle);
  context.lineTo(width, middle);
  context.stroke();
  for (const { at, kind } of activity) {
    if (at < now - SPAN_MS) continue;
    const place = x(at);
    if (kind === "request") {
      context.fillStyle = colours.muted;
      context.fillRect(place - 0.5, middle, 1, LANE / 2);
    } else if (kind === "empty") {
      context.strokeStyle = colours.muted;
      context.fillStyle = colours.panel;
      context.beginPath();
      context.arc(place, middle, 2.4, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    } else {
      context.fillStyle = kind === "gap" ? colours.alarm : colours.wire;
      context.fillRect(place - 1.5, middle - (kind === "gap" ? 9 : 7), 3, kind === "gap" ? 18 : 7);
    }
  }
}

/** The latencies of the last minute on a logarithmic scale, 1 ms below and 10 s above. */
export function drawSparkline(canvas, reader, colours, now) {
  const area = surface(canvas);
  if (!area) return;
  const { context, width, height } = area;
  context.strokeStyle = colours.line;
  context.beginPath();
  for (const ms of [1, 10, 100, 1000, 10_000]) {
    const place = Math.round(height - 1 - latencyPlace(ms) * (height - 2)) + 0.5;
    context.moveTo(0, place);
    context.lineTo(width, place);
  }
  context.stroke();
  context.fillStyle = colours.wire;
  for (const { at, ms } of reader.latencies()) {
    if (at < now - SPAN_MS) continue;
    const left = width - 3 - ((now - at) / SPAN_MS) * (width - 3);
    const top = height - 1 - latencyPlace(ms) * (height - 2);
    context.globalAlpha = 0.25;
    context.fillRect(left - 1, top, 2, height - top);
    context.globalAlpha = 1;
    context.fillRect(left - 1.5, top - 1.5, 3, 3);
  }
}
