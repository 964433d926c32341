// One connection for all tabs of an origin: this tab's part.
//
// All tabs of a name want the same Web Lock; whoever has it holds the connection (holder.js), and all of them, that
// one too, reach it over a BroadcastChannel (link.js). A tab that is closed or crashes loses its locks: the next in
// the queue holds the connection then, and every tab goes on from its own positions, as after any loss. Each tab has
// a lock of its own besides, by which the holder learns that it is gone. A holder that does not answer (its page
// hangs) has the lock taken from it.

import { Holder } from "./holder.js";
import { tabLock } from "./tab_lock.js";

export class Tab {
  #name;
  #makeClient;
  #locks;
  #bus = null;
  #listeners = new Set();
  #releases = [];
  #leaving = null;
  #holder = null;
  id = "";

  /**
   * @param {string} name what the tabs that share have in common
   * @param {() => object} makeClient makes the client that holds the connection
   */
  constructor(name, makeClient, locks = globalThis.navigator?.locks) {
    this.#name = `everywire:${name}`;
    this.#makeClient = makeClient;
    this.#locks = locks;
  }

  static isPossible() {
    return Boolean(globalThis.navigator?.locks) && typeof BroadcastChannel === "function";
  }

  join() {
    if (this.#bus) return;
    this.id = crypto.randomUUID();
    this.#bus = new BroadcastChannel(this.#name);
    this.#bus.onmessage = ({ data }) => {
      for (const listener of [...this.#listeners]) listener(data);
    };
    this.#leaving = new AbortController();
    this.#keep(tabLock(this.#name, this.id), {}, () => {});
    this.#claim({});
  }

  leave() {
    if (!this.#bus) return;
    this.post({ kind: "left", from: this.id });
    this.#holder?.stop();
    this.#holder = null;
    this.#leaving.abort();
    for (const release of this.#releases.splice(0)) release();
    this.#bus.close();
    this.#bus = null;
  }

  /** Hold the connection as soon as nobody else does; `steal`: at once, since whoever does is not answering. */
  #claim({ steal = false }) {
    this.#keep(this.#name, steal ? { steal } : {}, () => {
      this.#holder = new Holder(this.#name, this.#makeClient(), this.#locks);
    });
  }

  claimNow() {
    if (!this.#holder) this.#claim({ steal: true });
  }

  #keep(lock, options, got) {
    const { signal } = this.#leaving;
    const isStealing = options.steal;
    this.#locks.request(lock, isStealing ? options : { signal }, () => {
      if (signal.aborted) return undefined;
      got();
      return new Promise((release) => this.#releases.push(release));
    }).catch(() => {
      // Somebody took it: this page did not answer in time. It may have its turn again.
      if (signal.aborted || lock !== this.#name) return;
      this.#holder?.stop();
      this.#holder = null;
      this.#claim({});
    });
  }

  post(message) {
    this.#bus?.postMessage(message);
  }

  /** Hear all messages; returns a function that ends it. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
