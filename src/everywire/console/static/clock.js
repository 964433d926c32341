// Times: this browser's, and how far the server's clock is from it.
//
// A publication's `time` is the server's clock. Shown to the browser of the same machine there is one clock and
// nothing to correct. Elsewhere the `Date` field of the answers bounds the difference: it names the second in
// which the server answered, and that was between our sending and our receiving. Each answer narrows the
// bounds; what is left of them is told to the reader of the page.

const LOOPBACK = /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/;

export class Clock {
  #low = -Infinity;
  #high = Infinity;
  #skew = 0;
  #same;

  constructor(hostname = location.hostname) {
    this.#same = LOOPBACK.test(hostname);
  }

  /** UNIX time in milliseconds with a fraction, which Date.now() lacks; follows it when that clock is set. */
  now() {
    const fine = performance.timeOrigin + performance.now() + this.#skew;
    const error = Date.now() - fine;
    if (Math.abs(error) < 20) return fine;
    this.#skew += error;
    return fine + error;
  }

  /** Learn from an answer's `Date`, asked for at `sent` and received at `received`. */
  learn(date, sent, received) {
    const second = Date.parse(date ?? "");
    if (this.#same || Number.isNaN(second)) return;
    const low = second - received;
    const high = second + 1000 - sent;
    const contradicts = low > this.#high || high < this.#low; // a clock was set: start again
    this.#low = contradicts ? low : Math.max(this.#low, low);
    this.#high = contradicts ? high : Math.min(this.#high, high);
  }

  /** What the server's clock shows more than ours, in milliseconds. */
  get offset() {
    return Number.isFinite(this.#high - this.#low) ? (this.#low + this.#high) / 2 : 0;
  }

  /** A server's time in terms of ours. */
  local(serverTime) {
    return serverTime - this.offset;
  }

  describe() {
    if (this.#same) return "Server and browser share this machine’s clock, so latency needs no correction.";
    if (!Number.isFinite(this.#high - this.#low)) {
      return "The server’s clock has not been compared yet: latency includes the difference of the two clocks.";
    }
    const doubt = Math.ceil((this.#high - this.#low) / 2);
    return (
      `The server’s clock is taken to be ${Math.round(this.offset)} ms from this browser’s, give or take ` +
      `${doubt} ms (from the Date of its answers). That is subtracted; the doubt remains in every latency.`
    );
  }
}
