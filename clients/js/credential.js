// Who the client is: a token by value, `getToken`, or `getTicket`.
//
// A token is kept until the server wants a newer one. A ticket is good for one use and some seconds, so each connect
// command gets one of its own. Where a credential would stand in a URL (EventSource), a ticket is preferred.

import { CLIENT } from "./codes.js";
import { Ending, EverywireError, Unauthorized } from "./errors.js";

const TIMEOUT_MS = 20_000;

export class Credential {
  #token;
  #getToken;
  #getTicket;
  #flight = null;

  constructor({ token = "", getToken, getTicket }) {
    this.#token = token;
    this.#getToken = getToken;
    this.#getTicket = getTicket;
  }

  get canRenew() {
    return Boolean(this.#getToken || this.#getTicket);
  }

  /** Whether there is a `getToken`, so that a session can be given a new token while it goes on. */
  get canRefresh() {
    return Boolean(this.#getToken);
  }

  /** The token of a connect command; "" for none. */
  async forConnect({ isInUrl = false } = {}) {
    const hasToken = Boolean(this.#token || this.#getToken);
    if (this.#getTicket && (isInUrl || !hasToken)) return ask("getTicket", this.#getTicket);
    if (!this.#token && this.#getToken) await this.renew();
    return this.#token;
  }

  /** The server wants a newer one than this. */
  drop() {
    if (this.#getToken) this.#token = "";
  }

  /** Ask the application for a new token; those who ask at the same time share the answer. */
  async renew() {
    this.#flight ??= ask("getToken", this.#getToken).finally(() => (this.#flight = null));
    this.#token = await this.#flight;
    return this.#token;
  }
}

/** Ask the application for a token; a rejection other than `Unauthorized` may be tried again. */
export async function ask(name, get, argument) {
  let timer;
  const late = new Promise((_, reject) => {
    const error = failed(`${name} took more than ${TIMEOUT_MS / 1000} s`);
    timer = setTimeout(() => reject(error), TIMEOUT_MS);
  });
  try {
    const token = await Promise.race([Promise.resolve().then(() => get(argument)), late]);
    if (typeof token === "string" && token) return token;
    throw new Unauthorized(`${name} gave no token`);
  } catch (error) {
    if (error instanceof EverywireError) throw error;
    throw failed(`${name} failed: ${error?.message ?? error}`, error);
  } finally {
    clearTimeout(timer);
  }
}

function failed(message, cause) {
  return new EverywireError(CLIENT.NO_TOKEN, message, { temporary: true, cause });
}

/** What a credential that could not be had means for the connection. */
export function endingOf(error) {
  if (error instanceof Ending) return error;
  return new Ending(error?.temporary ? "lost" : "refused", error?.message ?? String(error), {
    code: error?.code ?? CLIENT.NO_TOKEN,
    isServers: true, // Every other transport would want it, too.
  });
}
