// The tab that holds the connection: it answers the others as a server would, from one client.
//
// A tab's connect is answered once there is a connection; when that is lost, every tab's session ends with the same
// code, and they come back. Subscriptions are shared by channel (relay.js); all other commands are handed on as they
// are, and their replies given back.

import { INVALID_TOKEN, TOKEN_EXPIRED, UNAUTHORIZED, isTerminal } from "../codes.js";
import { Relay, errorOf } from "./relay.js";
import { tabLock } from "./tab_lock.js";

/** A code that a tab comes back after; the reason says what it was. */
const CONNECTION_LOST = 3000;

export class Holder {
  #bus;
  #client;
  #tabs = new Set();
  #relays = new Map();
  /** Who wants to connect and is not answered yet; `isAsked` where the greeting is being made. */
  #waiting = [];
  #locks;
  #name;
  #isOver = false;
  #stopping = new AbortController();
  id = crypto.randomUUID();

  constructor(name, client, locks) {
    this.#name = name;
    this.#client = client;
    this.#locks = locks;
    this.#bus = new BroadcastChannel(name);
    this.#bus.onmessage = ({ data }) => this.#heard(data);
    client.on("connected", () => this.#connected());
    client.on("disconnected", (event) => this.#disconnected(event));
    client.on("moved", () => this.#tell([...this.#tabs], { push: { connect: this.#who() } }));
    client.on("message", ({ data }) => this.#tell([...this.#tabs], { push: { message: { data } } }));
    client.on("subscribed", ({ channel }) => this.#subscribedByServer(channel));
    this.#post({ kind: "holder", holder: this.id });
    client.connect();
  }

  stop() {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#stopping.abort();
    this.#post({ kind: "gone", holder: this.id });
    this.#client.disconnect();
    this.#bus.close();
  }

  #post(message) {
    this.#bus.postMessage(message);
  }

  #tell(to, ...replies) {
    if (to.length && !this.#isOver) this.#post({ kind: "replies", holder: this.id, to, replies });
  }

  #heard({ kind, from, to, commands }) {
    if (kind === "hello") this.#post({ kind: "holder", holder: this.id });
    else if (kind === "left") this.#left(from);
    else if (kind === "commands" && to === this.id) for (const command of commands) this.#command(from, command);
  }

  #left(tab) {
    this.#tabs.delete(tab);
    this.#waiting = this.#waiting.filter((waiting) => waiting.tab !== tab);
    for (const relay of this.#relays.values()) relay.leave(tab);
  }

  #command(tab, command) {
    const { id, connect, ping, subscribe, unsubscribe, send } = command;
    const subRefresh = command.sub_refresh;
    if (connect) this.#connect(tab, id, connect);
    else if (ping) this.#tell([tab], { id, ping: {} });
    else if (subscribe) this.#relay(subscribe).join(tab, id, subscribe);
    else if (subRefresh) this.#refreshed(tab, id, subRefresh);
    else if (unsubscribe) {
      this.#relays.get(unsubscribe.channel)?.leave(tab);
      this.#tell([tab], { id, unsubscribe: {} });
    } else if (send) this.#client.send(send.data).catch(() => {});
    else if (id) this.#handOn(tab, id, command);
  }

  #handOn(tab, id, { id: _, ...command }) {
    this.#client.request(command).then(
      (reply) => this.#tell([tab], { ...reply, id }),
      (error) => this.#tell([tab], { id, error: errorOf(error) }),
    );
  }

  #refreshed(tab, id, { channel, token }) {
    this.#relays.get(channel)?.takeToken(token);
    this.#tell([tab], { id, sub_refresh: {} });
  }

  #relay(request) {
    const name = request.channel;
    let relay = this.#relays.get(name);
    if (!relay) {
      relay = new Relay(this.#client, name, {
        tell: (tabs, reply) => this.#tell(tabs, reply),
        ended: () => this.#relays.delete(name),
      });
      this.#relays.set(name, relay);
    }
    return relay;
  }

  // -- connections of tabs ----------------------------------------------------------------------

  #connect(tab, id, request) {
    this.#watch(tab);
    this.#waiting.push({ tab, id, request });
    if (this.#client.state === "connected") this.#connected();
    else if (this.#client.state === "disconnected") this.#client.connect();
  }

  /** Forget a tab when the lock that it keeps while it lives is free. */
  #watch(tab) {
    const { signal } = this.#stopping;
    this.#locks.request(tabLock(this.#name, tab), { signal }, () => this.#left(tab)).catch(() => {});
  }

  #who() {
    return { client: this.#client.client, transport: this.#client.transport };
  }

  async #connected() {
    const asked = this.#waiting.filter(({ isAsked }) => !isAsked);
    for (const one of asked) one.isAsked = true;
    for (const one of asked) {
      const { tab, id, request } = one;
      const isWanted = () => this.#waiting.includes(one);
      const connect = await this.#greeting(tab, request, isWanted).catch((error) => error);
      if (!isWanted()) continue;
      this.#waiting.splice(this.#waiting.indexOf(one), 1);
      if (connect instanceof Error) {
        this.#tell([tab], { id, error: errorOf(connect) });
      } else {
        this.#tabs.add(tab);
        this.#tell([tab], { id, connect });
      }
    }
  }

  async #greeting(tab, request, isWanted) {
    const subs = {};
    for (const [name, relay] of this.#relays) {
      if (relay.isServerSide) subs[name] = await relay.result(tab, request.subs?.[name] ?? {}, isWanted);
    }
    return { ...this.#who(), subs };
  }

  #disconnected({ code, reason, willReconnect }) {
    // Whoever is being greeted is greeted anew by the next connection, and not by what was found out for this one.
    this.#waiting = this.#waiting.map(({ tab, id, request }) => ({ tab, id, request }));
    if (!willReconnect) {
      // Of codes that a tab would come back with, it is told as what it is: a refusal.
      const error = { code: code < 100 || code === TOKEN_EXPIRED ? UNAUTHORIZED : code, message: reason };
      for (const { tab, id } of this.#waiting.splice(0)) this.#tell([tab], { id, error });
    }
    const last = willReconnect ? Math.max(code, CONNECTION_LOST) : isTerminal(code) ? code : INVALID_TOKEN;
    this.#tell([...this.#tabs], { push: { disconnect: { code: last, reason } } });
    this.#tabs.clear();
    for (const relay of this.#relays.values()) relay.leaveAll();
  }

  #subscribedByServer(name) {
    const channel = this.#client.channel(name);
    if (!channel.isServerSide || this.#relays.has(name)) return;
    const relay = this.#relay({ channel: name });
    relay.follow(channel);
    for (const tab of this.#tabs) relay.add(tab);
    const { epoch, offset } = channel.position ?? {};
    const subscribe = { recoverable: channel.position !== null, epoch, offset };
    this.#tell([...this.#tabs], { push: { channel: name, subscribe } });
  }
}
