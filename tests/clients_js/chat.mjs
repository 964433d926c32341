// A chat of two clients: messages both ways, presence, one reconnect. Runs in Node and in a page.
//
// Returns what each saw and how each got there. What is asserted stands in tests/e2e/test_js_client.py.

const MESSAGES = 5;
const DEADLINE_MS = 40_000;
const CONNECTION_LOST = 2;

async function until(holds, what) {
  const endMs = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > endMs) throw new Error(`this never came to hold: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** One of the two: a client, and all that it heard. */
class Talker {
  seen = [];
  gaps = [];
  outcomes = [];
  losses = [];

  constructor(Everywire, url, room, name, options) {
    this.name = name;
    this.wire = new Everywire(url, options);
    this.wire.on("disconnected", ({ reason }) => this.losses.push(reason));
    this.room = this.wire.channel(room, { joinLeave: true });
    this.room.on("publication", ({ offset, data }) => this.seen.push({ offset, ...data }));
    this.room.on("gap", (gap) => this.gaps.push(gap));
    this.room.on("subscribed", ({ outcome }) => this.outcomes.push(outcome));
  }

  async arrive() {
    const startedMs = performance.now();
    await this.wire.connect();
    this.connectMs = Math.round(performance.now() - startedMs);
    this.first = this.wire.transport;
    await this.room.subscribe();
  }

  /** Say something. Where a cut leaves it open whether it was said, look, and say it again if not. */
  async say(text) {
    const id = `${this.name} ${text}`;
    for (;;) {
      try {
        await this.room.publish({ by: this.name, id });
        return;
      } catch (error) {
        if (error.code !== CONNECTION_LOST) throw error;
      }
      const { publications } = await this.again(() => this.room.history());
      if (publications.some(({ data }) => data.id === id)) return;
    }
  }

  /** Ask until no cut comes between. */
  async again(ask) {
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        if (error.code !== CONNECTION_LOST) throw error;
      }
    }
  }

  report() {
    const { name, first, connectMs, seen, gaps, outcomes, losses, wire } = this;
    return { name, first, last: wire.transport, connectMs, seen, gaps, outcomes, losses, attempts: wire.attempts };
  }
}

export async function chat(Everywire, { url, room, holdMs = 0 }, options = {}) {
  const alice = new Talker(Everywire, url, room, "alice", options);
  const bob = new Talker(Everywire, url, room, "bob", options);
  const both = [alice, bob];
  await alice.arrive();
  await bob.arrive();
  for (let index = 0; index < MESSAGES; index++) await Promise.all(both.map((one) => one.say(index)));
  await until(() => both.every(({ seen }) => seen.length === 2 * MESSAGES), "each heard all");
  const present = [];
  for (const one of both) {
    await until(async () => {
      const clients = await one.again(() => one.room.presence());
      return both.every(({ wire }) => wire.client in clients);
    }, `${one.name} sees both`);
    present.push(one.name);
  }
  if (holdMs) await new Promise((resolve) => setTimeout(resolve, holdMs));
  alice.wire.disconnect();
  for (let index = 0; index < MESSAGES; index++) await bob.say(`while alice is away ${index}`);
  await alice.wire.connect();
  await alice.say("back");
  await until(() => both.every(({ seen }) => seen.length === 3 * MESSAGES + 1), "each heard all after the reconnect");
  const reports = both.map((one) => one.report());
  for (const { wire } of both) wire.disconnect();
  return { present, talkers: Object.fromEntries(reports.map((report) => [report.name, report])) };
}
