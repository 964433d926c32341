// HTTP streaming: one answer that never ends, a JSON line for each publication.

import { chunkBytes, requestHeadBytes, responseHeadBytes } from "../bytes.js";
import { Reader, Refusal } from "../reader.js";
import { disconnection, request } from "./answers.js";

const MAX_LINE_CHARACTERS = 4 * 1024 * 1024;
const SILENCE_MS = 65_000; // three heartbeats of the server, and a little

export class Stream extends Reader {
  static kind = "stream";
  static title = "HTTP streaming";
  static how = "fetch, one JSON line each";
  static curl = (url) => `curl -N -H 'Accept: application/x-ndjson' '${url}'`;

  async session(signal) {
    const url = this.url();
    const headers = { Accept: "application/x-ndjson" };
    this.requested(requestHeadBytes(url, headers));
    const watch = new AbortController();
    const either = AbortSignal.any([signal, watch.signal]);
    const response = await request(url, { headers, cache: "no-store", signal: either });
    this.cost.headerReceived += responseHeadBytes(response);
    this.alive();
    try {
      await this.#read(response.body.getReader(), watch);
    } catch (error) {
      if (signal.aborted) throw error;
      if (error instanceof Refusal) throw error;
      const silent = watch.signal.aborted;
      throw new Refusal(silent ? "Not even a heartbeat for a minute." : "The stream broke off.");
    }
  }

  async #read(body, watch) {
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const timer = setTimeout(() => watch.abort(), SILENCE_MS);
      const { done, value } = await body.read().finally(() => clearTimeout(timer));
      if (done) return;
      this.cost.payload += value.length;
      this.cost.headerReceived += chunkBytes(value.length);
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      if (rest.length > MAX_LINE_CHARACTERS) throw new Refusal("A line of the stream has no end.");
      lines.forEach((line) => line.trim() && this.#take(JSON.parse(line)));
    }
  }

  #take(line) {
    if (line.gap) this.gap(line.gap);
    else if ("offset" in line) this.arrived(line);
    if (line.position !== undefined) this.position = line.position; // a heartbeat has none
    if (line.disconnect) throw disconnection(line.disconnect);
  }
}
