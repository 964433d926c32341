// Events for listeners. A listener that throws is reported, and disturbs neither the others nor the connection.

export class Emitter {
  #listeners = new Map();

  /**
   * Call `listener` at each event of this name.
   * @returns {() => void} a function that takes the listener away again
   */
  on(name, listener) {
    if (typeof listener !== "function") throw new TypeError("a listener is a function");
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name).add(listener);
    return () => this.off(name, listener);
  }

  /** Call `listener` at the next event of this name only. */
  once(name, listener) {
    const off = this.on(name, (event) => {
      off();
      listener(event);
    });
    return off;
  }

  /** Take a listener away, or all of this name. */
  off(name, listener) {
    if (listener === undefined) this.#listeners.delete(name);
    else this.#listeners.get(name)?.delete(listener);
    return this;
  }

  /** @protected */
  emit(name, event) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        report(error);
      }
    }
  }
}

function report(error) {
  if (typeof globalThis.reportError === "function") globalThis.reportError(error);
  else console.error(error);
}
