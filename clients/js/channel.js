// One channel of a client: its subscription, and where it stands.
//
// Publications are told once each and in the order of their offsets, whatever happens to connections. A subscription
// belongs to one session at a time; coming back, or moving, it asks on the new one from its position (epoch and
// offset) and changes over with the reply, which has what was missed. How that went is always told: `subscribed` has
// an `outcome`, and a `gap` says what is missing.

import { CLIENT, SUBSCRIPTION_EXPIRED, TOKEN_EXPIRED, mayResubscribe } from "./codes.js";
import { Backoff } from "./backoff.js";
import { ask } from "./credential.js";
import { Emitter } from "./emitter.js";
import { EverywireError } from "./errors.js";
import { readInfo, readPublication } from "./protocol.js";
import { SubscriptionRefresher } from "./refreshing.js";
import { Alarm } from "./timing.js";

/** @internal The name of an event: what comes, in the protocol's form, for tabs that share a connection. */
export const PUSH = Symbol("push");

export class Channel extends Emitter {
  #client;
  #options;
  #token;
  #isWanted = false;
  #session = null;
  #asking = null;
  #epoch;
  #offset = 0;
  #isRecoverable = false;
  #backoff;
  #retry = new Alarm();
  #refresher;
  #waiting = [];

  /** "unsubscribed", "subscribing" or "subscribed". */
  state = "unsubscribed";
  /** Whether the server subscribed this client by itself. */
  isServerSide = false;

  /** Made by `wire.channel(name, options)`. */
  constructor(client, name, options = {}) {
    super();
    this.name = name;
    this.#client = client;
    this.#options = options;
    this.#token = options.token ?? "";
    this.#backoff = new Backoff({ minMs: options.minResubscribeMs, maxMs: options.maxResubscribeMs });
    this.#refresher = new SubscriptionRefresher(this, () => this.#newToken());
    if (options.since) this.#stand(options.since, true);
  }

  /** Where the channel's reader stands: { epoch, offset }, or null when that is not known. */
  get position() {
    return this.#epoch === undefined ? null : { epoch: this.#epoch, offset: this.#offset };
  }

  // -- what an application asks for ------------------------------------------------------------

  /** Subscribe, and stay subscribed. Resolves with the first `subscribed` event, rejects when it is refused. */
  subscribe() {
    if (this.isServerSide) {
      return Promise.reject(new EverywireError(CLIENT.BAD_CALL, "the server subscribed this channel"));
    }
    const done = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    done.catch(() => {}); // It is told by events, too; nobody has to wait for it.
    if (this.state === "subscribed") this.#settle("resolve", this.#outcome("kept", {}));
    else if (!this.#isWanted) this.#begin();
    return done;
  }

  #begin() {
    this.#isWanted = true;
    this.#become("subscribing");
    this.#askAnew();
  }

  #askAnew() {
    if (this.#client.session) this.attach(this.#client.session);
  }

  /** Unsubscribe; the position is forgotten. */
  unsubscribe() {
    if (!this.#isWanted) return;
    const session = this.#session;
    this.#end({ code: CLIENT.UNSUBSCRIBED, reason: "unsubscribe() was called" });
    this.#epoch = undefined;
    this.#offset = 0;
    for (const asked of new Set([session, this.#client.session])) {
      asked?.call({ unsubscribe: { channel: this.name } }, () => {});
    }
  }

  /** Publish to this channel; see `wire.publish`. */
  publish(data) {
    return this.#client.publish(this.name, data);
  }

  /** Who is in this channel; see `wire.presence`. */
  presence() {
    return this.#client.presence(this.name);
  }

  /** How many are in this channel; see `wire.presenceStats`. */
  presenceStats() {
    return this.#client.presenceStats(this.name);
  }

  /** What is kept of this channel; see `wire.history`. */
  history(options) {
    return this.#client.history(this.name, options);
  }

  // -- what the client tells it ------------------------------------------------------------------

  /** Whether it is to be subscribed on every session. */
  get isWanted() {
    return this.#isWanted;
  }

  /** Whether it has asked on this session, or belongs to it. */
  isOn(session) {
    return this.#asking?.session === session || this.#session === session;
  }

  /** Ask on this session; `settled` is called when that came to an end, whichever. */
  attach(session, { settled = () => {}, isMove = false } = {}) {
    this.#retry.clear();
    const asking = { session, settled, isMove };
    this.#asking = asking;
    this.#ask(asking);
  }

  async #ask(asking) {
    let token = this.#token;
    try {
      if (!token && this.#options.getToken) token = await this.#newToken();
    } catch (error) {
      if (this.#asking === asking) this.#refused(asking, error);
      return;
    }
    if (this.#asking === asking) {
      asking.session.call({ subscribe: this.#request(token) }, (error, reply) => this.#answered(asking, error, reply));
    }
  }

  #request(token) {
    const { data, joinLeave } = this.#options;
    return {
      channel: this.name,
      ...(token && { token }),
      ...(data !== undefined && { data }),
      ...(joinLeave && { join_leave: true }),
      positioned: true,
      recoverable: true,
      ...(this.position && { recover: true, ...this.position }),
    };
  }

  #answered(asking, error, reply) {
    if (this.#asking !== asking) return asking.settled();
    if (error) return this.#refused(asking, error);
    this.#asking = null;
    this.#backoff.succeeded();
    this.take(reply.subscribe, asking.session, asking.isMove);
    asking.settled();
  }

  #refused(asking, error) {
    this.#asking = null;
    const isLost = error.code === CLIENT.CONNECTION_LOST;
    if (error.code === TOKEN_EXPIRED && this.#options.getToken) this.#token = "";
    const mayRetry = error.temporary || error.code < 100 || (error.code === TOKEN_EXPIRED && this.#options.getToken);
    const isForbidden = error.code === CLIENT.NO_TOKEN && !error.temporary;
    if (!mayRetry || isForbidden) {
      this.emit("error", { channel: this.name, error });
      this.#end({ code: error.code, reason: error.message, error });
    } else if (!isLost) {
      this.emit("error", { channel: this.name, error });
      this.#retry.set(this.#backoff.next(), () => this.#askAnew());
    }
    asking.settled();
  }

  /** A subscribe result: of an answer, or of a subscription that the server made by itself. */
  take(result, session, isMove = false) {
    this.#session = session;
    const outcome = this.#judge(result);
    const { publications = [] } = result;
    this.#isRecoverable = Boolean(result.recoverable);
    if (outcome.outcome !== "recovered") this.#stand(result, this.#isRecoverable);
    else if (this.#epoch === "") this.#epoch = result.epoch ?? "";
    this.#refresher.plan(session, result);
    this.#become("subscribed");
    const event = this.#outcome(outcome.outcome, result, isMove);
    this.#tell("subscribed", event);
    if (outcome.gap) this.#tell("gap", { channel: this.name, ...outcome.gap });
    this.#settle("resolve", event);
    for (const publication of publications) this.#deliver(publication);
  }

  /** What became of the position that was asked from. */
  #judge({ was_recovering: wasRecovering, recovered, epoch = "", offset = 0 }) {
    if (!wasRecovering || !this.position) return { outcome: "new" };
    if (recovered) return { outcome: "recovered" };
    const isSame = epoch === this.#epoch && offset >= this.#offset;
    if (!isSame) return { outcome: "reset", gap: { from: null, to: null, reason: "reset" } };
    return { outcome: "trimmed", gap: { from: this.#offset + 1, to: offset, reason: "trimmed" } };
  }

  #outcome(outcome, { data, has_snapshot: isSnapshot }, isMove = false) {
    return {
      channel: this.name,
      outcome,
      isMove,
      position: this.position,
      ...(data !== undefined && (isSnapshot ? { snapshot: data } : { data })),
    };
  }

  #stand({ epoch = "", offset = 0 }, isKnown) {
    this.#epoch = isKnown ? epoch : undefined;
    this.#offset = isKnown ? offset : 0;
  }

  /** A push of a session. What comes by another than the one it belongs to came, or will come, by that. */
  pushed(push, session) {
    if (push.token_wanted) return this.#giveToken(session);
    if (session !== this.#session) return;
    if (push.pub) return this.#deliver(push.pub);
    if (!push.unsubscribe) this.emit(PUSH, push);
    if (push.join) this.#tell("join", { channel: this.name, info: readInfo(push.join.info) });
    else if (push.leave) this.#tell("leave", { channel: this.name, info: readInfo(push.leave.info) });
    else if (push.unsubscribe) this.#unsubscribed(push.unsubscribe);
    else if (push.presence_changed) this.#tell("presence", { channel: this.name });
  }

  #deliver(pub) {
    const { offset = 0 } = pub;
    if (offset && this.#epoch !== undefined) {
      if (offset <= this.#offset) return;
      const from = this.#offset + 1;
      this.#offset = offset;
      if (offset > from) this.#tell("gap", { channel: this.name, from, to: offset - 1, reason: "skipped" });
    }
    this.emit(PUSH, { pub });
    this.#tell("publication", readPublication(this.name, pub));
  }

  #unsubscribed({ code, reason }) {
    if (this.isServerSide || !mayResubscribe(code)) return this.#end({ code, reason });
    if (code === SUBSCRIPTION_EXPIRED) this.#token = "";
    this.#session = null;
    this.#become("subscribing");
    this.#askAnew();
  }

  /** The session is gone; the position stays. */
  detach() {
    this.#asking = this.#session = null;
    this.#retry.clear();
    this.#refresher.stop();
    if (this.#isWanted || this.isServerSide) this.#become("subscribing");
  }

  /** The client will not come back by itself: whoever waits is told. */
  giveUp(error) {
    this.#settle("reject", error);
  }

  /** The server no longer has this subscription. */
  end(event) {
    if (this.#isWanted || this.isServerSide) this.#end(event);
  }

  #end({ error, ...event }) {
    this.#isWanted = false;
    this.#asking = this.#session = null;
    this.#retry.clear();
    this.#refresher.stop();
    this.#become("unsubscribed");
    this.#tell("unsubscribed", { channel: this.name, ...event });
    this.isServerSide = false;
    this.#settle("reject", error ?? new EverywireError(event.code, event.reason));
  }

  #become(state) {
    const previous = this.state;
    if (state === previous) return;
    this.state = state;
    this.emit("state", { channel: this.name, state, previous });
  }

  /** Tell listeners here, and those of the client when the server made this subscription. */
  #tell(name, event) {
    this.emit(name, event);
    if (this.isServerSide) this.#client.tell(name, event);
  }

  #settle(how, value) {
    for (const waiting of this.#waiting.splice(0)) waiting[how](value);
  }

  /** The tab that holds the connection needs a newer token. */
  async #giveToken(session) {
    const token = await this.#newToken().catch(() => "");
    if (token) session.call({ sub_refresh: { channel: this.name, token } }, () => {});
  }

  async #newToken() {
    if (!this.#options.getToken) throw new EverywireError(CLIENT.NO_TOKEN, "there is no getToken");
    this.#token = await ask("getToken", this.#options.getToken, { channel: this.name });
    return this.#token;
  }
}
