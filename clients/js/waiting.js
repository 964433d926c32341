// Commands that wait for a connection: few, and not for long. They were not sent yet, so sending them later is safe.

import { CLIENT } from "./codes.js";
import { EverywireError } from "./errors.js";
import { after } from "./timing.js";

const MAX_WAITING = 1_000;

export class Waiting {
  #timeoutMs;
  #entries = new Set();

  constructor(timeoutMs) {
    this.#timeoutMs = timeoutMs;
  }

  /** Call `act(session, done)` once there is a session, else `done(error)` when that took too long. */
  add(act, done) {
    if (this.#entries.size >= MAX_WAITING) {
      return done(new EverywireError(CLIENT.TOO_MANY, `${MAX_WAITING} commands wait for a connection already`));
    }
    const entry = { act, done };
    entry.timer = after(this.#timeoutMs, () => {
      this.#entries.delete(entry);
      const message = `there was no connection within ${this.#timeoutMs / 1000} s; it was not sent`;
      done(new EverywireError(CLIENT.TIMEOUT, message, { temporary: true }));
    });
    this.#entries.add(entry);
  }

  flush(session) {
    for (const { act, done } of this.#take()) act(session, done);
  }

  reject(error) {
    for (const { done } of this.#take()) done(error);
  }

  #take() {
    const entries = [...this.#entries];
    this.#entries.clear();
    for (const { timer } of entries) clearTimeout(timer);
    return entries;
  }
}
