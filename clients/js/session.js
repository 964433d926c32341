// One session over one link: command ids, replies to whom they belong, signs of life.
//
// Commands of one turn are joined into one message. A reply is handed over in the same turn in which it came, so
// that nothing overtakes it. Liveness does not depend on our timers being in time: they are late in hidden tabs and
// on machines that slept, so silence that we may have slept through is answered with a ping, not with an end.

import { CLIENT } from "./codes.js";
import { EverywireError, Ending } from "./errors.js";
import { Alarm } from "./timing.js";

const MAX_PENDING = 1_000;
/** Pushes that come before a session is adopted. */
const MAX_EARLY = 10_000;
/** An alarm that is later than this was slept through. */
const OVERSLEPT_MS = 3_000;
const CHECK_TIMEOUT_MS = 4_000;

export class Session {
  #link;
  #timeoutMs;
  /** How much longer than the server's ping interval there may be silence. */
  #graceMs;
  #nextId = 1;
  #pending = new Map();
  #outgoing = [];
  #early = [];
  #handler = null;
  #silence = new Alarm();
  #check = new Alarm();
  #pingMs = 0;
  #sendsPongs = false;
  #ending = null;

  /** Who this session is to the server; what `connect` was answered. */
  client = "";
  openedAtMs = Date.now();
  /** When something last came. */
  heardAtMs = Date.now();
  /** How many ticks have come. */
  ticks = 0;
  onTick = () => {};
  /** Hears of the ending until the session is adopted. */
  onEnded = () => {};

  constructor(link, { timeoutMs, graceMs }) {
    this.#link = link;
    this.#graceMs = graceMs;
    this.#timeoutMs = timeoutMs;
    link.sink = {
      replied: (replies) => this.#replied(replies),
      ended: (ending) => this.#ended(ending),
    };
  }

  get transport() {
    return this.#link.transport;
  }

  get phase() {
    return this.#link.phase;
  }

  get isOver() {
    return this.#ending !== null;
  }

  get pending() {
    return this.#pending.size;
  }

  /** Begin: `first` are the commands that open the link, each with who hears its reply. */
  open(first) {
    // For these there is no other deadline than the proof's.
    const commands = first.map(([command, done]) => this.#expect(command, done, 0));
    this.#link.open(commands);
  }

  /** Send a command; `done(error, reply)` is called once, in the turn in which the reply comes. */
  call(command, done) {
    if (this.#ending) return done(lost(this.#ending, false));
    if (this.#pending.size >= MAX_PENDING || this.#link.isFull) return done(tooMany());
    this.#enqueue(this.#expect(command, done));
  }

  /** Send a command that has no reply; `done(error)` is called once it was handed over. */
  post(command, done = () => {}) {
    if (this.#ending) return done(lost(this.#ending, false));
    if (this.#link.isFull || this.#outgoing.length >= MAX_PENDING) return done(tooMany());
    this.#enqueue(command);
    done(null);
  }

  #expect(command, done, timeoutMs = this.#timeoutMs) {
    const id = this.#nextId++;
    const timer = timeoutMs && setTimeout(() => this.#late(id, command, done), timeoutMs);
    this.#pending.set(id, { done, timer });
    return { id, ...command };
  }

  #late(id, command, done) {
    this.#pending.delete(id);
    const message = `no reply came within ${this.#timeoutMs / 1000} s; it may have been carried out or not`;
    done(new EverywireError(CLIENT.TIMEOUT, message, { temporary: true, wasSent: true }));
    // Maybe nobody is there any more.
    if (this.#handler && !command.ping) this.check();
  }

  #enqueue(command) {
    if (this.#outgoing.push(command) > 1) return;
    queueMicrotask(() => {
      const commands = this.#outgoing.splice(0);
      if (!this.#ending) this.#link.send(commands);
    });
  }

  /** Hand over what comes from here on: `handler` has push(push) and ended(ending). */
  adopt(handler, { ping = 0, pong = false }) {
    this.#handler = handler;
    this.#pingMs = ping * 1000;
    this.#sendsPongs = pong;
    // It may have ended between its proof and now; the handler is not to hear of it before it knows of the session.
    if (this.#ending) return queueMicrotask(() => handler.ended(this.#ending));
    this.#link.live();
    for (const push of this.#early.splice(0)) handler.push(push);
    this.#listen();
  }

  #replied(replies) {
    this.heardAtMs = Date.now();
    this.#check.clear();
    for (const reply of replies) {
      if (this.#ending) return;
      if (reply.id) this.#answered(reply);
      else if (reply.push) this.#pushed(reply.push);
      else if (this.#sendsPongs) this.post({});
    }
  }

  #answered(reply) {
    const waiting = this.#pending.get(reply.id);
    if (!waiting) return;
    this.#pending.delete(reply.id);
    clearTimeout(waiting.timer);
    if (reply.error) waiting.done(EverywireError.ofReply(reply.error));
    else waiting.done(null, reply);
  }

  #pushed(push) {
    if (push.tick) {
      this.ticks += 1;
      this.onTick();
    } else if (push.disconnect) {
      this.#link.end(Ending.ofClose(push.disconnect.code, push.disconnect.reason));
    } else if (this.#handler) {
      this.#handler.push(push);
    } else if (this.#early.push(push) > MAX_EARLY) {
      this.#link.end(new Ending("lost", "more came than can be kept until it is proven"));
    }
  }

  #ended(ending) {
    if (this.#ending) return;
    this.#ending = ending;
    // First of all whoever makes connections: those that wait for replies may ask for another.
    if (this.#handler) this.#handler.ended(ending);
    else this.onEnded(ending);
    this.#settle(ending);
  }

  #settle(ending) {
    this.#silence.clear();
    this.#check.clear();
    for (const { done, timer } of [...this.#pending.values()]) {
      clearTimeout(timer);
      done(lost(ending, true));
    }
    this.#pending.clear();
  }

  /** End it from our side: whoever waits for a reply is told; the handler is not. */
  close(ending = new Ending("lost", "it was closed here")) {
    if (this.#ending) return;
    this.#ending = ending;
    this.#link.close();
    this.#settle(ending);
  }

  // -- signs of life ------------------------------------------------------------------

  #listen() {
    if (!this.#pingMs || this.#ending) return;
    const dueMs = this.heardAtMs + this.#pingMs + this.#graceMs;
    this.#silence.set(Math.max(0, dueMs - Date.now()), () => {
      const lateMs = Date.now() - dueMs;
      if (this.heardAtMs + this.#pingMs + this.#graceMs > Date.now()) this.#listen();
      else if (lateMs > OVERSLEPT_MS) this.check();
      else this.#link.end(new Ending("lost", "the server's ping did not come"));
    });
  }

  /** Find out whether it is still there: a ping has to be answered, or anything else to come. */
  check(timeoutMs = CHECK_TIMEOUT_MS) {
    if (this.#ending || this.#check.isSet) return;
    this.#check.set(timeoutMs, () => this.#link.end(new Ending("lost", "a ping was not answered")));
    this.call({ ping: {} }, () => this.#listen());
  }
}

function tooMany() {
  return new EverywireError(CLIENT.TOO_MANY, "too much waits to be sent or answered already", { temporary: true });
}

function lost(ending, wasSent) {
  const fate = wasSent ? "; it may have been carried out or not" : "";
  const message = `the connection ended before a reply came${fate} (${ending.reason})`;
  return new EverywireError(CLIENT.CONNECTION_LOST, message, { temporary: true, wasSent });
}
