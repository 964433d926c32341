// One channel of the tab that holds the connection, for all tabs that follow it.
//
// The client's own subscription says what comes, once each and in order; the tabs get the same. A tab brings its own
// position: what it has missed comes from the tail that is kept here, or from the channel's history, and where
// neither reaches back so far it is told, as a server would.

import { CLIENT, SUBSCRIPTION_GAP } from "../codes.js";
import { PUSH } from "../channel.js";
import { EverywireError } from "../errors.js";

const MAX_TAIL = 100;
const TOKEN_TIMEOUT_MS = 10_000;

export class Relay {
  #client;
  #name;
  #outlet;
  #channel = null;
  /** Who asked and is not answered yet; `isAsked` where the answer is being found out. */
  #waiting = [];
  /** The tabs that follow, and whether each wants joins and leaves. */
  #tabs = new Map();
  #tail = [];
  #result = {};
  #token = "";
  #tokenWanted = null;
  #offs = [];
  #hearsPresence = false;

  /** @param {object} outlet tell(tabs, reply) and ended() */
  constructor(client, name, outlet) {
    this.#client = client;
    this.#name = name;
    this.#outlet = outlet;
  }

  get isServerSide() {
    return this.#channel?.isServerSide ?? false;
  }

  /** A tab subscribes. */
  join(tab, id, request) {
    if (request.token) this.takeToken(request.token);
    this.#waiting.push({ tab, id, request });
    if (!this.#channel) this.#open(request.recover ? request : null, request);
    else if (request.join_leave && !this.#hearsPresence) this.#reopen(request);
    if (this.#channel.state === "subscribed") this.#answer();
  }

  #open(since, { data, join_leave: joinLeave = false, token }) {
    this.#hearsPresence = joinLeave;
    const channel = this.#client.channel(this.#name, {
      data,
      joinLeave,
      ...(token && { getToken: () => this.#newToken() }),
      ...(since && { since: { epoch: since.epoch ?? "", offset: since.offset ?? 0 } }),
    });
    this.follow(channel);
    channel.subscribe();
  }

  /** Somebody wants joins and leaves: subscribe anew, from where it stands. */
  #reopen(request) {
    const { position } = this.#channel;
    this.#close();
    this.#open(position, request);
  }

  /** Hear what comes of the client's subscription. */
  follow(channel) {
    this.#channel = channel;
    this.#offs = [
      channel.on(PUSH, (push) => this.#pushed(push)),
      channel.on("subscribed", (event) => this.#subscribed(event)),
      channel.on("gap", () => this.#missed()),
      channel.on("unsubscribed", (event) => this.#ended(event)),
    ];
  }

  #close() {
    for (const off of this.#offs.splice(0)) off();
    this.#channel.unsubscribe();
    this.#client.forget(this.#name);
    this.#tail = [];
  }

  #subscribed({ data, snapshot, outcome }) {
    if (outcome === "new") this.#result = { data: snapshot ?? data, isSnapshot: snapshot !== undefined };
    if (outcome === "new") this.#result.position = this.#channel.position;
    // The publications of a subscribe reply follow in this turn; tabs are answered when they are here.
    queueMicrotask(() => this.#answer());
  }

  #pushed(push) {
    const { pub } = push;
    if (pub) {
      if (pub.offset) this.#tail.push(pub);
      if (this.#tail.length > MAX_TAIL) this.#tail.shift();
    }
    const tabs = [...this.#tabs].filter(([, hearsPresence]) => pub || hearsPresence).map(([tab]) => tab);
    this.#outlet.tell(tabs, { push: { ...push, channel: this.#name } });
  }

  /** The client itself missed something: every tab asks again, and is told what it has missed. */
  #missed() {
    this.#tail = [];
    const unsubscribe = { code: SUBSCRIPTION_GAP, reason: "something was missed" };
    this.#outlet.tell([...this.#tabs.keys()], { push: { channel: this.#name, unsubscribe } });
    this.#tabs.clear();
  }

  #ended({ code, reason }) {
    const error = { code, message: reason };
    for (const { tab, id } of this.#waiting.splice(0)) this.#outlet.tell([tab], { id, error });
    this.#outlet.tell([...this.#tabs.keys()], { push: { channel: this.#name, unsubscribe: { code, reason } } });
    for (const off of this.#offs.splice(0)) off();
    this.#client.forget(this.#name);
    this.#outlet.ended();
  }

  // -- tabs -------------------------------------------------------------------------------------------

  async #answer() {
    const asked = this.#waiting.filter(({ isAsked }) => !isAsked);
    for (const one of asked) one.isAsked = true;
    for (const one of asked) {
      const { tab, id, request } = one;
      const isWanted = () => this.#waiting.includes(one);
      const reply = await this.result(tab, request, isWanted).then(
        (subscribe) => ({ id, subscribe }),
        (error) => ({ id, error: errorOf(error) }),
      );
      if (!isWanted()) continue;
      this.#waiting.splice(this.#waiting.indexOf(one), 1);
      this.#outlet.tell([tab], reply);
    }
  }

  /**
   * What a subscribe of a tab is answered; from the same turn on it gets what comes, if it is still wanted. Rejects
   * when it could not be found out what the tab missed: it asks again then.
   */
  async result(tab, request, isWanted) {
    const { data, isSnapshot, position } = this.#result;
    const wanted = request.recover ? request : isSnapshot ? position : null;
    const since = wanted && (await this.#since(wanted));
    const publications = since && this.#untilNow(since);
    const { epoch, offset } = this.#channel?.position ?? {};
    const at = { recoverable: epoch !== undefined, positioned: epoch !== undefined, epoch, offset };
    if (isWanted()) this.add(tab, request.join_leave);
    if (request.recover) {
      const recovered = publications && { recovered: true, offset: request.offset, publications };
      return { ...at, was_recovering: true, ...recovered };
    }
    if (data === undefined) return at;
    return { ...at, data, ...(publications && { offset: position.offset, publications, has_snapshot: true }) };
  }

  add(tab, hearsPresence = false) {
    this.#tabs.set(tab, hearsPresence);
  }

  /**
   * Read of the history what came after a position, until what is kept here goes on from it: the publications, and
   * the offset that they reach. Null when it is not known any more.
   */
  async #since({ epoch = "", offset = 0 }) {
    const pages = [];
    let reached = offset;
    let isKnown = false;
    for (;;) {
      const position = this.#channel?.position;
      epoch ||= position?.epoch ?? "";
      if (!position || epoch !== position.epoch) return null;
      // A tab may be ahead of this channel, which catches up after a loss. But only the log knows that it was there.
      isKnown ||= offset <= position.offset;
      if (isKnown && (reached >= position.offset || this.#later(reached)[0]?.offset === reached + 1)) {
        return { pages, reached };
      }
      const found = await this.#history({ epoch, offset: reached });
      if (!found || (isKnown && !found.length) || (found.length && found[0].offset !== reached + 1)) return null;
      isKnown = true;
      pages.push(...found);
      reached = found.at(-1)?.offset ?? reached;
    }
  }

  /** What is kept here of what came after an offset. */
  #later(offset) {
    return this.#tail.filter((pub) => pub.offset > offset);
  }

  /** The history may be ahead of what came here: a tab gets that like the others, when it comes. */
  #untilNow({ pages, reached }) {
    const { offset } = this.#channel?.position ?? { offset: 0 };
    return [...pages.filter((pub) => pub.offset <= offset), ...this.#later(reached)];
  }

  /** A page of the channel's history after a position; null when that is none of which all is kept. */
  async #history(since) {
    try {
      const asked = { history: { channel: this.#name, limit: -1, since } };
      return (await this.#client.request(asked)).history.publications ?? [];
    } catch (error) {
      if (!error.temporary) return null;
      // That nobody answered does not say that anything is lost.
      throw new EverywireError(CLIENT.TIMEOUT, `the history could not be read: ${error.message}`, { temporary: true });
    }
  }

  leave(tab) {
    this.#tabs.delete(tab);
    this.#waiting = this.#waiting.filter((waiting) => waiting.tab !== tab);
    if (this.#tabs.size || this.#waiting.length || this.isServerSide || !this.#channel) return;
    this.#close();
    this.#outlet.ended();
  }

  /** Every tab's session ended, and comes back in a moment: what it followed is kept for it. */
  leaveAll() {
    this.#tabs.clear();
    this.#waiting = [];
  }

  // -- subscription tokens -------------------------------------------------------------------------------

  /** A tab has a token. */
  takeToken(token) {
    if (this.#tokenWanted) this.#tokenWanted(token);
    else this.#token = token;
  }

  /** The token that a tab brought, or a new one of any tab. */
  #newToken() {
    const token = this.#token;
    this.#token = "";
    if (token) return token;
    return new Promise((resolve, reject) => {
      const settle = (act) => (value) => ((this.#tokenWanted = null), clearTimeout(timer), act(value));
      const timer = setTimeout(() => settle(reject)(new Error("no tab gave a token")), TOKEN_TIMEOUT_MS);
      this.#tokenWanted = settle(resolve);
      const tabs = [...this.#tabs.keys(), ...this.#waiting.map(({ tab }) => tab)].slice(0, 1);
      this.#outlet.tell(tabs, { push: { channel: this.#name, token_wanted: {} } });
    });
  }
}

/** An error as a reply tells it. */
export function errorOf({ code, message, temporary, wasSent }) {
  return { code, message, temporary, was_sent: wasSent };
}
