// What any wire has told about the channel, for those that tell less.
//
// An SSE event carries data and a position, but neither offset nor time. The same position is told by the
// stream and the WebSocket together with both, so the SSE reader asks here and is answered as soon as
// another wire has brought the same publication. Positions themselves stay opaque.

const MAX_ENTRIES = 4096;

export class Ledger extends EventTarget {
  /** The highest offset that any wire has brought. */
  head = 0;
  /** Event names seen in the channel: EventSource delivers only names that it listens for. */
  events = new Set();
  #entries = new Map(); // position -> {offset, time}
  #positions = new Map(); // offset -> position
  #asking = new Map(); // position -> callback

  /** Learn that the publication at `position` has this offset and time. */
  tell(position, { offset, time, event }) {
    this.head = Math.max(this.head, offset);
    if (position !== undefined && !this.#entries.has(position)) {
      keep(this.#entries, position, { offset, time });
      keep(this.#positions, offset, position);
      this.#asking.get(position)?.({ offset, time });
      this.#asking.delete(position);
    }
    if (event !== undefined && !this.events.has(event) && this.events.size < 256) {
      this.events.add(event);
      this.dispatchEvent(new CustomEvent("event-name", { detail: { offset } }));
    }
  }

  /** Call back with offset and time of `position`: at once, later, or never if no wire tells. */
  ask(position, callback) {
    const entry = this.#entries.get(position);
    if (entry) callback(entry);
    else keep(this.#asking, position, callback);
  }

  /** The position of a reader that has read up to `offset`, if known. */
  positionAt(offset) {
    return this.#positions.get(offset);
  }

  /** The channel has another epoch: offsets start anew. */
  reset() {
    this.head = 0;
    this.#positions.clear();
  }
}

function keep(map, key, value) {
  map.set(key, value);
  if (map.size > MAX_ENTRIES) map.delete(map.keys().next().value);
}
