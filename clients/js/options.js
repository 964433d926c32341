// What can be set, with its defaults. everywire.d.ts says what each means.

import { CLIENT } from "./codes.js";
import { EverywireError } from "./errors.js";
import { TRANSPORTS } from "./transports/index.js";

export const VERSION = "0.1.0";

const DEFAULTS = Object.freeze({
  name: "everywire-js",
  version: VERSION,
  transports: TRANSPORTS,
  headStartMs: 1_000,
  proofTimeoutMs: 5_000,
  commandTimeoutMs: 10_000,
  pingGraceMs: 10_000,
  minReconnectMs: 500,
  maxReconnectMs: 20_000,
  busyMs: 2_000,
  climbMs: 30_000,
  shared: false,
});

export function complete(options) {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const completed = { ...DEFAULTS, ...given };
  const unknown = completed.transports.filter((name) => !TRANSPORTS.includes(name));
  if (unknown.length || !completed.transports.length) {
    const wrong = unknown.join(", ") || "none given";
    const message = `no such transport: ${wrong}; there are ${TRANSPORTS.join(", ")}`;
    throw new EverywireError(CLIENT.BAD_CALL, message);
  }
  return completed;
}
