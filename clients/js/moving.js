// Moving from one connection to another without loss: the old one goes on until the new one has everything.
//
// Each subscription asks on the new session from where it stands, and changes over with the reply; the reply has all
// that came meanwhile. When every one has, commands go by the new session; the old one stays until what it was asked
// is answered, for a while. If the new one breaks before that, so does the old one: coming back is then as after any
// loss, from the positions.

import { Ending } from "./errors.js";
import { Alarm } from "./timing.js";

const MOVE_TIMEOUT_MS = 15_000;
const RETIRE_MS = 5_000;
const RETIRE_STEP_MS = 50;

export class Moving {
  #old;
  #fresh;
  #outcome;
  #deadline = new Alarm();

  /** @param {object} outcome moved() and failed(ending); one of them is called, once */
  constructor(old, fresh, outcome) {
    this.#old = old;
    this.#fresh = fresh;
    this.#outcome = outcome;
    this.#deadline.set(MOVE_TIMEOUT_MS, () => this.#fail(new Ending("lost", "the move took too long")));
  }

  /** Every subscription has changed over. */
  done() {
    const outcome = this.#settle();
    if (!outcome) return;
    outcome.moved();
    retire(this.#old);
  }

  /** A session ended; true when that is taken care of here. */
  lost(session) {
    if (session === this.#old) {
      this.done();
      return true;
    }
    if (session !== this.#fresh) return false;
    this.#fail(new Ending("lost", "the better transport broke off while moving to it"));
    return true;
  }

  #fail(ending) {
    const outcome = this.#settle();
    if (!outcome) return;
    this.#fresh.close(ending);
    this.#old.close(ending);
    outcome.failed(ending);
  }

  cancel(ending) {
    if (this.#settle()) this.#fresh.close(ending);
  }

  #settle() {
    const outcome = this.#outcome;
    this.#outcome = null;
    this.#deadline.clear();
    return outcome;
  }
}

/** Close a session when nobody waits for a reply of it any more, or after a while. */
function retire(session, leftMs = RETIRE_MS) {
  if (!session.pending || leftMs <= 0) return session.close();
  setTimeout(() => retire(session, leftMs - RETIRE_STEP_MS), RETIRE_STEP_MS);
}
