// Timers that cannot overflow, and that all end together.

/** setTimeout takes 32 bits: beyond them it fires at once. */
const MAX_DELAY_MS = 2 ** 31 - 1;

/** Call `what` after a delay; a longer one than timers can take is cut to about 24 days. */
export function after(delayMs, what) {
  return setTimeout(what, Math.max(0, Math.min(MAX_DELAY_MS, delayMs)));
}

/** One alarm that can be set, set anew and put off; never two at a time. */
export class Alarm {
  #timer;

  set(delayMs, what) {
    this.clear();
    this.#timer = after(delayMs, () => {
      this.#timer = undefined;
      what();
    });
  }

  clear() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  get isSet() {
    return this.#timer !== undefined;
  }
}

/** A promise that resolves after a delay. */
export const sleep = (delayMs) => new Promise((resolve) => after(delayMs, resolve));
