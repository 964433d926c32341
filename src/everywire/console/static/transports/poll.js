// Polling: ask, wait for the interval, ask again. A 304 saves the body when nothing is new.

import { Reader } from "../reader.js";
import { sleep } from "../sleep.js";
import { ask } from "./answers.js";

const SLICE_MS = 100;

export class Poll extends Reader {
  static kind = "poll";
  static title = "Polling";
  static how = "GET, again and again";
  static curl = (url) => `curl '${url}'`;

  async session(signal) {
    let last = {};
    for (;;) {
      const began = performance.now();
      // The tag belongs to one address, so to one position: it only says whether that answer changed.
      const etag = last.url === this.url() ? last.etag : undefined;
      last = await ask(this, {}, { signal, etag });
      const hint = Number(last.response.headers.get("retry-after"));
      if (hint > 0) this.course.interval.hint(hint * 1000);
      // In slices, so that a moved slider counts at once.
      while (performance.now() - began < this.course.interval.ms) {
        await sleep(Math.min(SLICE_MS, this.course.interval.ms), signal);
        signal.throwIfAborted();
      }
    }
  }
}
