// What a rejected promise says, and how a connection ended.
//
//   EverywireError     what callers see: a code (codes.js), a sentence, whether trying again may help, and whether
//                      the command was sent. One that was sent and not answered may have been carried out: this
//                      protocol has no idempotency keys, so the client never sends it again by itself.
//   Ending             how one connection, or one attempt to make one, ended (internal)

import {
  BUSY, CLIENT, SERVICE_RESTART, SHUTDOWN, SLOW_DOWN, TOKEN_EXPIRED, TRY_AGAIN_LATER, isTerminal,
} from "./codes.js";

export class EverywireError extends Error {
  /**
   * @param {number} code see codes.js
   * @param {string} message what happened, and what may be done
   * @param {{temporary?: boolean, wasSent?: boolean, cause?: unknown}} [details]
   */
  constructor(code, message, { temporary = false, wasSent = false, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "EverywireError";
    this.code = code;
    this.temporary = temporary;
    this.wasSent = wasSent;
  }

  /** The error of a reply; the server has read the command and refused it. */
  static ofReply({ code, message, temporary = false, was_sent: wasSent = true }) {
    return new EverywireError(code, message, { temporary, wasSent });
  }
}

/** Thrown by an application's `getToken` or `getTicket`: there is no permission, and asking again is of no use. */
export class Unauthorized extends EverywireError {
  constructor(message = "not authorized") {
    super(CLIENT.NO_TOKEN, message);
    this.name = "Unauthorized";
  }
}

/**
 * How a connection, or an attempt to make one, ended. Kinds:
 *
 *   blocked   the path does not let this transport through: odd answers, silence, bodies held back
 *   lost      it broke off, or nobody answered; worth another attempt
 *   busy      the server said itself: come back later. Every transport reaches the same server, so none is tried
 *   expired   the server wants a newer token
 *   refused   the server said: never again
 */
export class Ending {
  constructor(kind, reason, { code = 0, retryAfterMs, isServers = false, isUnreachable = false } = {}) {
    this.kind = kind;
    this.reason = reason;
    this.code = code;
    /** What the server said: not before so many milliseconds. */
    this.retryAfterMs = retryAfterMs;
    /** Whether the server itself said so; then data does come through, and another transport would hear the same. */
    this.isServers = isServers;
    /** Whether there was no HTTP answer at all. */
    this.isUnreachable = isUnreachable;
  }

  /** The server closed a WebSocket, or sent the push `disconnect`. */
  static ofClose(code, reason) {
    const hint = /come back in (\d+) ms/.exec(reason ?? "");
    const retryAfterMs = hint ? Number(hint[1]) : undefined;
    const said = `the server ended it: ${code}${reason ? ` ${reason}` : ""}`;
    if (isTerminal(code)) return new Ending("refused", said, { code, isServers: true });
    if ([SERVICE_RESTART, TRY_AGAIN_LATER, SHUTDOWN, SLOW_DOWN].includes(code)) {
      return new Ending("busy", said, { code, retryAfterMs, isServers: true });
    }
    if (code >= 3000) return new Ending("lost", said, { code, retryAfterMs, isServers: true });
    const how = code === 1006 ? "it broke off" : `it was closed: ${code}${reason ? ` ${reason}` : ""}`;
    return new Ending("lost", how, { code });
  }

  /** The reply to `connect` was an error. */
  static ofConnectError({ code, message, temporary }) {
    const said = `the server answered ${code} to connect: ${message}`;
    if (code === TOKEN_EXPIRED) return new Ending("expired", said, { code, isServers: true });
    if (code === BUSY) return new Ending("busy", said, { code, isServers: true });
    if (code < 100 || temporary) return new Ending("lost", said, { code, isServers: true });
    return new Ending("refused", said, { code, isServers: true });
  }

  /** An HTTP answer that is none of the good ones; its body, when it is ours, says who speaks. */
  static async ofResponse(response) {
    const text = await response.text().catch(() => "");
    const error = errorIn(text);
    const seconds = Number(response.headers.get("retry-after") || NaN);
    const retryAfterMs = Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : undefined;
    const { status } = response;
    if (error) {
      const said = `the server answered ${status}: ${error.code} ${error.message}`;
      const details = { code: error.code, retryAfterMs, isServers: true };
      if (error.code === BUSY || status === 429 || status === 503) return new Ending("busy", said, details);
      if (error.code === TOKEN_EXPIRED) return new Ending("expired", said, details);
      if (status === 401 || status === 403) return new Ending("refused", said, details);
      return new Ending(status >= 500 ? "lost" : "blocked", said, { ...details, isServers: false });
    }
    const kind = [408, 425, 429].includes(status) || status >= 500 ? "lost" : "blocked";
    return new Ending(kind, `something on the way answered ${status}`, { code: status, retryAfterMs });
  }

  static unreachable(error) {
    const why = error?.cause?.code ?? error?.cause?.message ?? error?.message ?? "";
    return new Ending("lost", `there was no answer${why ? ` (${why})` : ""}`, { isUnreachable: true });
  }
}

/** Find our error object in a body; anything else was said by something on the way. */
function errorIn(text) {
  try {
    const { error } = JSON.parse(text);
    return Number.isInteger(error?.code) ? { message: "", ...error } : null;
  } catch {
    return null;
  }
}
