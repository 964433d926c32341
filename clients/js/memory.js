// Remembers which transport worked, per server, for a while: networks change, and people move between them.

const MAX_AGE_MS = 24 * 3600 * 1000;

export class Memory {
  #storage;
  #key;

  /** @param {Storage | null} storage anything with getItem and setItem; null: nothing is remembered */
  constructor(storage, base) {
    this.#storage = storage;
    this.#key = `everywire:${base}`;
  }

  /** The name of the transport that worked last, if that was not long ago. */
  recall() {
    try {
      const { transport, at } = JSON.parse(this.#storage.getItem(this.#key));
      const ageMs = Date.now() - at;
      return ageMs >= 0 && ageMs < MAX_AGE_MS ? transport : undefined;
    } catch {
      return undefined; // Nothing there, not ours, or storage is forbidden here.
    }
  }

  remember(transport) {
    try {
      this.#storage.setItem(this.#key, JSON.stringify({ transport, at: Date.now() }));
    } catch {
      // No storage, full or forbidden: then the next page has to find out again.
    }
  }
}

/** The browser's own storage; reading the name alone may throw where it is forbidden. */
export function ownStorage() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null;
  }
}
