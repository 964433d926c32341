// The way from a tab to the one that holds the connection: a transport like any other, over a BroadcastChannel.

import { Ending } from "../errors.js";
import { Alarm } from "../timing.js";
import { Link } from "../transports/link.js";

/** A holder that does not answer within this time is not going to. */
const HELLO_TIMEOUT_MS = 3_000;

/** Make the link's class for one tab. */
export function sharedLink(tab) {
  return class SharedLink extends Link {
    static transport = "shared";
    #holder = "";
    #first = null;
    #unlisten = () => {};
    #hello = new Alarm();

    static isAvailable() {
      return true;
    }

    open(commands) {
      this.phase = "no tab holds a connection yet";
      this.#first = commands;
      this.#unlisten = tab.listen((message) => this.#heard(message));
      this.#askForHolder();
    }

    #askForHolder() {
      tab.post({ kind: "hello", from: tab.id });
      this.#hello.set(HELLO_TIMEOUT_MS, () => {
        tab.claimNow();
        this.#askForHolder();
      });
    }

    #heard({ kind, holder, to, replies }) {
      if (kind === "holder") this.#announced(holder);
      else if (holder !== this.#holder) return;
      else if (kind === "gone") this.end(new Ending("lost", "the tab with the connection left"));
      else if (kind === "replies" && to.includes(tab.id)) this.replied(replies);
    }

    #announced(holder) {
      if (holder === this.#holder) return;
      if (this.#holder) return this.end(new Ending("lost", "another tab took over the connection"));
      this.#hello.clear();
      this.#holder = holder;
      this.phase = "the tab with the connection has none";
      this.send(this.#first);
    }

    send(commands) {
      tab.post({ kind: "commands", from: tab.id, to: this.#holder, commands });
    }

    release() {
      this.#hello.clear();
      this.#unlisten();
    }
  };
}
