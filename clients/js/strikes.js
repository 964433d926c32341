// Transports whose connections are cut right after they have proven themselves: two in a row, and the others come
// first for some minutes.

const STRIKES = 2;
const PENALTY_MS = 300_000;

export class Strikes {
  #counts = new Map();
  #outUntilMs = new Map();

  /** A connection of this transport ended; `isWell` when it lived for a while, or the server ended it. */
  lived(transport, isWell) {
    const count = isWell ? 0 : (this.#counts.get(transport) ?? 0) + 1;
    this.#counts.set(transport, count);
    if (count >= STRIKES) this.#outUntilMs.set(transport, Date.now() + PENALTY_MS);
    else if (isWell) this.#outUntilMs.delete(transport);
  }

  /** Somebody knows better. */
  forgive(transport) {
    this.#counts.delete(transport);
    this.#outUntilMs.delete(transport);
  }

  has(transport) {
    return (this.#outUntilMs.get(transport) ?? 0) > Date.now();
  }

  /** Those with nothing against them first. */
  sort(names) {
    return [...names.filter((name) => !this.has(name)), ...names.filter((name) => this.has(name))];
  }
}
