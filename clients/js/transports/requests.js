// Requests of the HTTP transports: one way to send them, and a lane that keeps commands in order.

import { Ending } from "../errors.js";
import { takeBatch } from "../protocol.js";

const ACCEPTED = [200, 204];
/** A whole answer is expected within this time. */
export const REQUEST_TIMEOUT_MS = 10_000;

/** POST a body; return the answer when it is a good one, else throw an `Ending`. */
export async function post(site, path, body, { accept = "application/json", signal } = {}) {
  let response;
  try {
    response = await site.fetch(site.url(path), {
      method: "POST",
      body,
      signal,
      cache: "no-store",
      redirect: "follow",
      credentials: site.credentials,
      headers: { "Content-Type": "application/json", Accept: accept, ...site.headers },
    });
  } catch (error) {
    throw Ending.unreachable(error);
  }
  if (!ACCEPTED.includes(response.status)) throw await Ending.ofResponse(response);
  return response;
}

/** Do something with a signal that ends it in time; throws an `Ending` then. */
export async function withDeadline(timeoutMs, signal, what) {
  const limit = new AbortController();
  const abort = () => limit.abort();
  let isLate = false;
  const timer = setTimeout(() => ((isLate = true), abort()), timeoutMs);
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    return await what(limit.signal);
  } catch (error) {
    if (isLate) throw new Ending("lost", `there was no whole answer within ${timeoutMs / 1000} s`);
    throw error instanceof Ending ? error : Ending.unreachable(error);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
  }
}

const MAX_WAITING = 2_000;

/**
 * Hands the text of commands to `carry`, one batch at a time: requests that run side by side may overtake one
 * another. What comes meanwhile goes together with the next.
 */
export class Lane {
  #carry;
  #failed;
  #waiting = [];
  #isBusy = false;

  get isFull() {
    return this.#waiting.length >= MAX_WAITING;
  }

  constructor(carry, failed) {
    this.#carry = carry;
    this.#failed = failed;
  }

  push(commands) {
    this.#waiting.push(...commands.map((command) => JSON.stringify(command)));
    if (!this.#isBusy) this.#run();
  }

  async #run() {
    this.#isBusy = true;
    try {
      while (this.#waiting.length) await this.#carry(takeBatch(this.#waiting));
    } catch (error) {
      this.#failed(error);
    }
    this.#isBusy = false;
  }
}
