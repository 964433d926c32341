// New tokens before the old ones run out, on the connection as it is: nothing is interrupted.
//
// The server says for how many seconds a token is good (`expires`, `ttl`). The new one is sent some seconds earlier.
// When there is no `getToken`, nothing can be done: the server ends it, and says so.

import { Alarm } from "./timing.js";

const EARLY_MS = 10_000;
const MAX_EARLY_SHARE = 0.25;
const RETRY_MS = 5_000;

/** When to refresh what is good for `ttl` seconds, in milliseconds from now. */
function dueMs(ttl) {
  const ttlMs = ttl * 1000;
  return ttlMs - Math.min(EARLY_MS, ttlMs * MAX_EARLY_SHARE);
}

class Refresher {
  #alarm = new Alarm();
  #session = null;

  /** @param {object} session of whichever the credential belongs to, and what it said of it */
  plan(session, { expires, ttl = 0 }) {
    this.stop();
    this.#session = session;
    if (expires) this.#alarm.set(dueMs(ttl), () => this.#refresh(session));
  }

  stop() {
    this.#alarm.clear();
    this.#session = null;
  }

  /** Do it now: the server says that it is about to run out. */
  hurry(session) {
    if (session !== this.#session) return;
    this.#alarm.clear();
    this.#refresh(session);
  }

  async #refresh(session) {
    let token;
    try {
      token = await this.newToken();
    } catch (error) {
      return this.#failed(session, error);
    }
    if (this.#session !== session) return;
    session.call(this.command(token), (error, reply) => {
      if (this.#session !== session) return;
      if (error) this.#failed(session, error);
      else this.plan(session, this.result(reply));
    });
  }

  #failed(session, error) {
    if (this.#session !== session || session.isOver) return;
    this.told(error);
    if (error.temporary) this.#alarm.set(RETRY_MS * (1 + Math.random()), () => this.#refresh(session));
  }
}

/** Refreshes the token of a connection. */
export class ConnectionRefresher extends Refresher {
  constructor(credential, told) {
    super();
    this.credential = credential;
    this.told = told;
  }

  newToken() {
    return this.credential.renew();
  }

  command(token) {
    return { refresh: { token } };
  }

  result(reply) {
    return reply.refresh;
  }

  plan(session, result) {
    super.plan(session, this.credential.canRefresh ? result : {});
  }
}

/** Refreshes the token of a subscription. */
export class SubscriptionRefresher extends Refresher {
  constructor(channel, newToken) {
    super();
    this.channel = channel;
    this.newToken = newToken;
  }

  told(error) {
    this.channel.emit("error", { channel: this.channel.name, error });
  }

  command(token) {
    return { sub_refresh: { channel: this.channel.name, token } };
  }

  result(reply) {
    return reply.sub_refresh;
  }
}
