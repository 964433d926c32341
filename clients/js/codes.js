// The codes that this client acts on. The table of all is src/everywire/core/codes.py; a test compares them.
//
// 100 to 399 answer one command; 2000 to 2499 end a subscription for good, 2500 to 2999 one that may be made
// again; 3000 to 3499 and 4000 to 4499 end a connection that may come back; 3500 to 3999 and 4500 to 4999 end it
// for good. Codes below 100 are made here and never travel.

export const UNAUTHORIZED = 101;
export const TOKEN_EXPIRED = 109;
export const BUSY = 124;

export const SERVICE_RESTART = 1012;
export const TRY_AGAIN_LATER = 1013;

export const UNSUBSCRIBED = 2000;
export const SUBSCRIPTION_GAP = 2500;
export const SUBSCRIPTION_EXPIRED = 2501;

export const SHUTDOWN = 3001;
export const INSUFFICIENT_STATE = 3010;
export const SLOW_DOWN = 3013;
export const INVALID_TOKEN = 3500;

/** Made here: why a promise was rejected, or why a connection or subscription ended. */
export const CLIENT = Object.freeze({
  /** No reply came in time; the command may have been carried out or not. */
  TIMEOUT: 1,
  /** The connection ended before the reply came. */
  CONNECTION_LOST: 2,
  /** `disconnect()` was called, or `connect()` never was. */
  DISCONNECTED: 3,
  /** `unsubscribe()` was called. */
  UNSUBSCRIBED: 4,
  /** Too many commands are waiting already. */
  TOO_MANY: 5,
  /** `getToken` or `getTicket` failed, or gave nothing. */
  NO_TOKEN: 6,
  /** This cannot be done here: an argument is wrong, or something is missing. */
  BAD_CALL: 7,
});

/** Whether a connection that ended with this code must not come back. */
export function isTerminal(code) {
  return (code >= 3500 && code <= 3999) || (code >= 4500 && code <= 4999);
}

/** Whether a subscription that ended with this code may be made again. */
export function mayResubscribe(code) {
  return code >= 2500 && code <= 2999;
}
