// A bounded list of the newest items: what the page remembers has an end, however long it stays open.

export class Ring {
  #items = [];
  #start = 0;
  #capacity;

  constructor(capacity) {
    this.#capacity = capacity;
  }

  get length() {
    return this.#items.length;
  }

  push(item) {
    if (this.#items.length < this.#capacity) {
      this.#items.push(item);
    } else {
      this.#items[this.#start] = item;
      this.#start = (this.#start + 1) % this.#capacity;
    }
  }

  /** The item at `index`, oldest first; negative counts from the newest. */
  at(index) {
    const { length } = this.#items;
    const place = index < 0 ? length + index : index;
    return place < 0 || place >= length ? undefined : this.#items[(this.#start + place) % length];
  }

  *[Symbol.iterator]() {
    for (let index = 0; index < this.#items.length; index++) yield this.at(index);
  }

  clear() {
    this.#items = [];
    this.#start = 0;
  }
}

/** The values at `shares` (0 to 1) of the sorted numbers, by nearest rank; null when there are none. */
export function quantiles(numbers, shares) {
  const sorted = Float64Array.from(numbers).sort();
  return shares.map((share) =>
    sorted.length === 0 ? null : sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)],
  );
}
