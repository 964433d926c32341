// Long polling: ask and let the server hold the answer until there is something; then ask again at once.

import { Reader } from "../reader.js";
import { sleep } from "../sleep.js";
import { ask } from "./answers.js";

const WAIT_S = 25;
const SHORTEST_EMPTY_MS = 1_000;

export class LongPoll extends Reader {
  static kind = "long-poll";
  static title = "Long polling";
  static how = "GET ?wait=25, held until news";
  static curl = (url) => `curl '${url}?wait=25'`;

  async session(signal) {
    for (;;) {
      const began = performance.now();
      const { hasNews, response } = await ask(this, { wait: WAIT_S }, { signal, patienceMs: WAIT_S * 1000 });
      // A server that stops answers early and empty, and says when to come back: do not spin.
      const retryMs = 1000 * Number(response.headers.get("retry-after"));
      const rest = Math.max(retryMs, SHORTEST_EMPTY_MS - (performance.now() - began));
      if (!hasNews && rest > 0) await sleep(rest, signal);
      signal.throwIfAborted();
    }
  }
}
