// What every transport is to the rest: a link. Commands go in, replies and the ending come out.
//
//   open(commands)   begin, with the connect command first; called once
//   send(commands)   send more
//   close()          let go; the sink hears nothing afterwards
//   sink             { replied(replies), ended(ending) }; the ending comes once, and nothing after it
//
// A link knows nothing of channels; the polling ones, whose every request has to say again what is followed, keep
// note of that for themselves.

import { Ending } from "../errors.js";

export class Link {
  /** The name of the transport; each class has its own. */
  static transport = "";
  /** How many numbered ticks the connect command asks for, to recognise a proxy that holds bodies back. */
  static ticks = 0;
  /** Whether a ping may go along with `connect`; else it needs what the reply brings. */
  static takesPingAtOnce = true;

  /** Whether the connect command, and with it the credential, would stand in a URL. */
  static isCredentialInUrl() {
    return false;
  }

  sink = null;
  #isOver = false;
  /** How far it came, in words; for the reasons in `wire.attempts`. */
  phase = "nothing came";

  get transport() {
    return this.constructor.transport;
  }

  get isOver() {
    return this.#isOver;
  }

  /** Whether so much waits to be sent that no more is to be added. */
  get isFull() {
    return false;
  }

  /** This link was chosen, and carries the session from here on. */
  live() {}

  /** @protected Hand replies on. */
  replied(replies) {
    if (!this.#isOver && replies.length) this.sink.replied(replies);
  }

  /** @protected End, and tell why, once. */
  end(ending) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.release();
    this.sink.ended(ending instanceof Ending ? ending : Ending.unreachable(ending));
  }

  close() {
    if (this.#isOver) return;
    this.#isOver = true;
    this.release();
  }

  /** @protected Let go of sockets, requests and timers. */
  release() {}
}
