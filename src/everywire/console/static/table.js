// What a message costs on each wire, side by side.

import { bytes, count, milliseconds, NONE, ratio } from "./format.js";
import { quantiles } from "./ring.js";

const COLUMNS = [
  ["messages", ({ cost }) => count(cost.messages)],
  ["requests", ({ cost }) => count(cost.requests)],
  ["empty", ({ cost }) => count(cost.empty)],
  ["requests-each", ({ cost }) => ratio(each(cost.requests, cost))],
  ["header-each", ({ cost }) => bytes(each(headers(cost), cost))],
  ["payload-each", ({ cost }) => bytes(each(cost.payload, cost))],
  ["bar", null],
  ["median", (_, [median]) => milliseconds(median)],
  ["p95", (_, [, p95]) => milliseconds(p95)],
  ["reconnects", ({ cost }) => count(cost.reconnects)],
  ["gaps", ({ cost }) => count(cost.gaps)],
];

const headers = (cost) => cost.headerSent + cost.headerReceived;
const each = (amount, { messages }) => (messages === 0 ? null : amount / messages);

export class CostTable {
  #rows;

  constructor(body, readers) {
    this.#rows = readers.map((reader) => {
      const row = body.insertRow();
      row.dataset.wire = reader.constructor.kind;
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = reader.constructor.title;
      row.append(head);
      const cells = COLUMNS.map(([name]) => {
        const cell = row.insertCell();
        if (name === "bar") cell.append(bar());
        else cell.textContent = NONE;
        return cell;
      });
      return { reader, cells };
    });
  }

  write() {
    const totals = this.#rows.map(({ reader: { cost } }) => each(headers(cost) + cost.payload, cost) ?? 0);
    const most = Math.max(1, ...totals);
    for (const { reader, cells } of this.#rows) {
      const latency = quantiles(reader.latencies().map(({ ms }) => ms), [0.5, 0.95]);
      COLUMNS.forEach(([, text], index) => {
        if (text) write(cells[index], text(reader, latency));
        else fill(cells[index].firstElementChild, reader.cost, most);
      });
    }
  }
}

function write(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

/** Header and payload for each message as one bar; the figures stand beside it, so it says nothing aloud. */
function bar() {
  const element = document.createElement("span");
  element.className = "bar";
  element.setAttribute("aria-hidden", "true");
  element.append(document.createElement("span"), document.createElement("span"));
  return element;
}

function fill(element, cost, most) {
  const [header, payload] = element.children;
  header.style.width = `${(100 * (each(headers(cost), cost) ?? 0)) / most}%`;
  payload.style.width = `${(100 * (each(cost.payload, cost) ?? 0)) / most}%`;
}
