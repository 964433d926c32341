// How long to wait before another attempt: full jitter, as AWS's architecture blog measured it in 2015.
//
// A random time up to a bound that doubles with every failure, so that many clients that lost their server together
// do not come back together. The server's own word, when there is one, is the least it will be; a random part on
// top of it, since the server may have said the same to many.

const MAX_DOUBLINGS = 16;

export class Backoff {
  constructor({ minMs = 500, maxMs = 20_000, random = Math.random } = {}) {
    this.minMs = minMs;
    this.maxMs = maxMs;
    this.random = random;
    /** Failures since the last success. */
    this.failures = 0;
  }

  succeeded() {
    this.failures = 0;
  }

  /** The next delay in milliseconds. */
  next(hintMs) {
    const boundMs = Math.min(this.maxMs, this.minMs * 2 ** Math.min(this.failures, MAX_DOUBLINGS));
    this.failures += 1;
    if (hintMs !== undefined) return hintMs + this.random() * Math.max(this.minMs, hintMs / 2);
    return this.random() * boundMs;
  }
}
