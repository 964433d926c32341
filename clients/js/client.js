// The client: one connection for all channels, over whichever transport works.
//
// It speaks the Centrifuge client protocol (version 2) and the additions of docs/protocol-sessions.md. How the
// connection is made and kept is the business of connector.js, what a subscription is of channel.js. A command that
// was sent and not answered when the connection broke is rejected, never sent again: it may have been carried out.

import { Channel } from "./channel.js";
import { CLIENT, UNSUBSCRIBED } from "./codes.js";
import { Connector } from "./connector.js";
import { Emitter } from "./emitter.js";
import { EverywireError } from "./errors.js";
import { readInfo, readPublication } from "./protocol.js";
import { ConnectionRefresher } from "./refreshing.js";
import { complete } from "./options.js";
import { share } from "./sharing/share.js";
import { Site, baseOf } from "./site.js";
import { Waiting } from "./waiting.js";
import { listen } from "./wakeups.js";

/** A credential that runs out so soon is refreshed at once. */
const HURRY_S = 30;

export class Everywire extends Emitter {
  #options;
  #connector;
  #refresher;
  #channels = new Map();
  #waiting;
  #connecting = [];
  #stopListening = () => {};
  #tab;
  #carriedBy = "";

  /** "disconnected", "connecting" or "connected". */
  state = "disconnected";
  /** This client's id on the server; another after each connect, but from poll to poll. */
  client = "";
  /** @internal The session in use. */
  session = null;

  /**
   * @param {string} [url] of the server, with the path that it lives under; the page's own origin by default
   * @param {object} [options] see everywire.d.ts
   */
  constructor(url, options = {}) {
    super();
    const completed = complete(options);
    const sharing = share(baseOf(url), completed, (own) => new Everywire(url, own));
    this.#tab = sharing?.tab ?? null;
    this.#options = sharing?.options ?? completed;
    const site = new Site(url, this.#options);
    this.#waiting = new Waiting(this.#options.commandTimeoutMs);
    this.#refresher = new ConnectionRefresher(site.credential, (error) => this.emit("error", { error }));
    this.#connector = new Connector(site, this.#options, {
      connectRequest: () => this.#connectRequest(),
      attempted: (attempt) => this.emit("attempt", attempt),
      opened: (session, result) => this.#opened(session, result),
      pushed: (push, session) => this.#pushed(push, session),
      closed: (ending, retryMs) => this.#closed(ending, retryMs),
      moving: (session, result, done) => this.#moving(session, result, done),
      moved: (session, old) => this.#moved(session, old),
    });
  }

  /** The name of the transport in use; "" while there is no connection. */
  get transport() {
    return this.session ? this.#carriedBy || this.session.transport : "";
  }

  /** Whether the connection is one for all tabs. */
  get isShared() {
    return this.#tab !== null;
  }

  /** What was tried, and how it went: the last fifty attempts. */
  get attempts() {
    return [...this.#connector.attempts];
  }

  /** Connect, and stay connected. Resolves when there is a connection, rejects when the server refuses for good. */
  connect() {
    if (this.state === "connected") return Promise.resolve();
    const connected = new Promise((resolve, reject) => this.#connecting.push({ resolve, reject }));
    connected.catch(() => {}); // It is told by events, too; nobody has to wait for it.
    if (this.state === "disconnected") {
      this.#become("connecting");
      this.#stopListening = listen((name) => this.#connector.wake(name));
      this.#tab?.join();
      this.#connector.start();
    }
    return connected;
  }

  /** Disconnect. Channels keep their positions: a later `connect()` goes on from there. */
  disconnect() {
    if (this.state === "disconnected") return;
    const ending = { code: CLIENT.DISCONNECTED, reason: "disconnect() was called" };
    this.#connector.stop(ending);
    this.#closed(ending, undefined);
  }

  /** Drop the connection and make a new one, on `transport` if it is named; nothing is lost by it. */
  reconnect(transport) {
    this.#connector.reconnect(transport);
  }

  /** Try better transports than the one in use now, rather than in a while. */
  climb() {
    this.#connector.climb();
  }

  /** A channel: the same object each time; the options count the first time. */
  channel(name, options) {
    let channel = this.#channels.get(name);
    if (!channel) this.#channels.set(name, (channel = new Channel(this, name, options)));
    return channel;
  }

  /** Publish what JSON can say. Resolves when the server has it in the channel's log. */
  async publish(channel, data) {
    await this.request({ publish: { channel, data } });
  }

  /** Call a method of the application; resolves with what it returned. */
  async rpc(method, data) {
    const reply = await this.request({ rpc: { method, ...(data !== undefined && { data }) } });
    return reply.rpc.data;
  }

  /** Send a message to the application. Resolves when it was handed to a connection; there is no reply. */
  send(data) {
    return this.#whenConnected((session, done) => session.post({ send: { data } }, done));
  }

  /** Who is in a channel: by client id, each with `user`, `client`, `connInfo` and `channelInfo`. */
  async presence(channel) {
    const { presence } = (await this.request({ presence: { channel } })).presence;
    return Object.fromEntries(Object.entries(presence ?? {}).map(([client, info]) => [client, readInfo(info)]));
  }

  /** How many are in a channel: { clients, users }. */
  async presenceStats(channel) {
    const stats = (await this.request({ presence_stats: { channel } })).presence_stats;
    return { clients: stats.num_clients ?? 0, users: stats.num_users ?? 0 };
  }

  /** What is kept of a channel (`limit` 0: only where it stands; -1: all that one answer holds). */
  async history(channel, { limit = -1, since, reverse = false } = {}) {
    const request = { channel, limit, ...(since && { since }), ...(reverse && { reverse }) };
    const { publications = [], epoch = "", offset = 0 } = (await this.request({ history: request })).history;
    return { publications: publications.map((pub) => readPublication(channel, pub)), epoch, offset };
  }

  /** @internal Drop a channel that is not subscribed, so that it can be made anew with other options. */
  forget(name) {
    this.#channels.delete(name);
  }

  /** @internal Send a command and wait for its reply. */
  request(command) {
    return this.#whenConnected((session, done) => session.call(command, done));
  }

  /** @internal */
  tell(name, event) {
    this.emit(name, event);
  }

  #whenConnected(act) {
    if (this.state === "disconnected") {
      return Promise.reject(new EverywireError(CLIENT.DISCONNECTED, "there is no connection: call connect() first"));
    }
    return new Promise((resolve, reject) => {
      const done = (error, reply) => (error ? reject(error) : resolve(reply));
      if (this.session) act(this.session, done);
      else this.#waiting.add(act, done);
    });
  }

  // -- what the connector tells -------------------------------------------------------------------

  #connectRequest() {
    const { data, name, version } = this.#options;
    const subs = {};
    for (const channel of this.#channels.values()) {
      if (channel.isServerSide && channel.position) subs[channel.name] = { recover: true, ...channel.position };
    }
    return { name, version, ...(data !== undefined && { data }), ...(Object.keys(subs).length && { subs }) };
  }

  #opened(session, result) {
    this.#use(session, result);
    this.#become("connected");
    this.emit("connected", { client: this.client, transport: this.transport, data: result.data });
    for (const { resolve } of this.#connecting.splice(0)) resolve();
    this.#serverSide(session, result.subs ?? {}, false);
    for (const channel of this.#wanted()) channel.attach(session);
    this.#waiting.flush(session);
  }

  #use(session, result) {
    this.session = session;
    this.client = session.client;
    this.#carriedBy = result.transport ?? "";
    this.#refresher.plan(session, result);
  }

  #wanted() {
    return [...this.#channels.values()].filter((channel) => channel.isWanted);
  }

  /** The subscriptions that the server made by itself; one that is no longer among them has ended. */
  #serverSide(session, subs, isMove) {
    for (const [name, result] of Object.entries(subs)) {
      const channel = this.channel(name);
      channel.isServerSide = true;
      channel.take(result, session, isMove);
    }
    for (const channel of this.#channels.values()) {
      if (!channel.isServerSide || channel.name in subs) continue;
      channel.end({ code: UNSUBSCRIBED, reason: "the server did not subscribe this channel again" });
    }
  }

  #moving(session, result, done) {
    const channels = this.#wanted();
    let left = channels.length + 1;
    const settled = () => --left === 0 && done();
    session.result = result;
    this.#serverSide(session, result.subs ?? {}, true);
    for (const channel of channels) channel.attach(session, { settled, isMove: true });
    settled();
  }

  #moved(session, old) {
    const from = old.transport;
    this.#use(session, session.result);
    for (const channel of this.#wanted()) if (!channel.isOn(session)) channel.attach(session);
    this.emit("moved", { from, to: session.transport, client: this.client });
  }

  #pushed(push, session) {
    const { channel, message, subscribe, refresh, connect } = push;
    if (connect) {
      this.#carried(connect);
    } else if (message) {
      // While moving, the application may tell both sessions the same.
      if (session === this.session) this.emit("message", { data: message.data });
    } else if (refresh) {
      this.#expires(session, refresh);
    } else if (subscribe) {
      const subscribed = this.channel(channel);
      subscribed.isServerSide = true;
      subscribed.take(subscribe, session);
    } else {
      this.#channels.get(channel)?.pushed(push, session);
    }
  }

  /** The tab that holds the connection moved to another transport. */
  #carried({ client, transport }) {
    const from = this.transport;
    this.client = client;
    this.#carriedBy = transport;
    this.emit("moved", { from, to: transport, client });
  }

  #expires(session, { expires, ttl = 0 }) {
    if (!expires) return this.#refresher.plan(session, {});
    if (ttl > HURRY_S) return this.#refresher.plan(session, { expires, ttl });
    this.emit("expiring", { inMs: ttl * 1000 });
    this.#refresher.hurry(session);
  }

  #closed(ending, retryMs) {
    const isFinal = retryMs === undefined;
    const wasConnected = this.session !== null;
    this.session = null;
    this.#refresher.stop();
    for (const channel of this.#channels.values()) channel.detach();
    const error = new EverywireError(ending.code, ending.reason);
    this.#become(isFinal ? "disconnected" : "connecting");
    if (isFinal) this.#giveUp(error);
    if (wasConnected || isFinal) {
      const { code, reason } = ending;
      this.emit("disconnected", { code, reason, willReconnect: !isFinal, ...(!isFinal && { retryMs }) });
    } else {
      this.emit("error", { error, retryMs });
    }
  }

  #giveUp(error) {
    this.#stopListening();
    this.#tab?.leave();
    this.#waiting.reject(error);
    for (const channel of this.#channels.values()) channel.giveUp(error);
    for (const { reject } of this.#connecting.splice(0)) reject(error);
  }

  #become(state) {
    const previous = this.state;
    if (state === previous) return;
    this.state = state;
    this.emit("state", { state, previous });
  }
}
