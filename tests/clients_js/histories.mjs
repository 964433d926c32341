// Drawn histories: acts that follow each other at random, on two channels of a scripted server.
//
// EVERYWIRE_PEACE_SEEDS=first-last draws others than the suite does.

import { test } from "node:test";

import { chances } from "./chances.mjs";
import { ScriptedServer } from "./scripted_server.mjs";
import { sleep } from "./until.mjs";

const ACTS = 40;
const MAX_PAUSE_MS = 40;
const TOLD = 12;

export const CHANNELS = ["a", "b"];

class History {
  published = 0;
  #acted = [];

  constructor(seed, server) {
    this.seed = seed;
    this.server = server;
    /** The server's script while all is well. */
    this.quiet = { ...server.script };
    Object.assign(this, chances(seed));
  }

  publish() {
    for (const name of CHANNELS) this.server.publish(name, this.published);
    this.published++;
  }

  /** What is to be read of each channel. */
  get expected() {
    return Array.from({ length: this.published }, (_, index) => index);
  }

  anySession() {
    return this.pick([...this.server.sessions.values()]);
  }

  get what() {
    return `of ${this.seed}, after ${this.#acted.slice(-TOLD).join("; ")}`;
  }

  async act(acts) {
    for (let count = 0; count < ACTS; count++) {
      const name = this.pick(Object.keys(acts));
      this.#acted.push(name);
      acts[name]();
      if (this.random() < 0.7) await sleep(this.random() * MAX_PAUSE_MS);
    }
  }
}

/** Let `live` go through a history of each seed, `seeds` of them in the suite. */
export function histories(seeds, live) {
  const [first, last] = (process.env.EVERYWIRE_PEACE_SEEDS ?? `1-${seeds}`).split("-").map(Number);
  for (let seed = first; seed <= last; seed++) {
    test(`history ${seed}`, async () => {
      const server = await new ScriptedServer().start();
      try {
        await live(new History(seed, server));
      } finally {
        await server.stop();
      }
    });
  }
}
