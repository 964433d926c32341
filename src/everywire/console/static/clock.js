// Times: this browser's, and how far the server's clock is from it.
//
// A publication's `time` is the server's clock. Shown to the browser of the same machine there is one clock and
// nothing to correct. Elsewhere: nothing arrives before it was published, so the fastest publication bounds the
// difference from one side; it is taken to have travelled for half of the fastest round trip. The `Date` of
// answers would need no such guess, but servers keep it for a second and more, which is worse.

const LOOPBACK = /^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/;
const DRIFT = 100e-6; // clocks of two machines run apart by so much at most; older bounds slacken accordingly

export class Clock {
  #skew = 0;
  #same;
  #bound = null; // {offset, at}: the server's clock shows at least `offset` more than ours
  #roundTripMs = Infinity;

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

  /** Learn from a publication of the server's `time` that arrived just when it was published, or later. */
  learnArrival(time, arrivedAt) {
    const offset = time - arrivedAt;
    if (this.#bound === null || offset > this.#slackened(arrivedAt)) this.#bound = { offset, at: arrivedAt };
  }

  /** Learn how long an answer took that the server did not hold back. */
  learnRoundTrip(tookMs) {
    this.#roundTripMs = Math.min(this.#roundTripMs, tookMs);
  }

  /** What the server's clock shows more than ours, in milliseconds. */
  get offset() {
    return this.#same || this.#bound === null ? 0 : this.#bound.offset + this.#doubt;
  }

  /** A server's time in terms of ours. */
  local(serverTime) {
    return serverTime - this.offset;
  }

  get #doubt() {
    return Number.isFinite(this.#roundTripMs) ? this.#roundTripMs / 2 : 0;
  }

  #slackened(at) {
    return this.#bound.offset - (at - this.#bound.at) * DRIFT;
  }

  describe() {
    if (this.#same) return "Server and browser share this machine’s clock, so latency needs no correction.";
    if (this.#bound === null) return "The server’s clock has not been compared with this browser’s yet.";
    return (
      `The server’s clock is taken to be ${Math.round(this.offset)} ms from this browser’s, which is subtracted: ` +
      `the fastest publication is assumed to have taken ${this.#doubt.toFixed(1)} ms, half of the fastest round ` +
      "trip. Compare wires with each other rather than believing a latency of this size."
    );
  }
}
