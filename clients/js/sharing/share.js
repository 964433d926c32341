// Whether and with whom to share: what a client that is told to is made of.
//
// Tabs of different users must never share. So with a token by value its user is part of the name; with `getToken` or
// `getTicket`, which may give another user's at any time, the application has to say whom it is for.

import { CLIENT } from "../codes.js";
import { EverywireError } from "../errors.js";
import { sharedLink } from "./link.js";
import { Tab } from "./tab.js";

/** Tabs are near: what is lost there comes back at once. */
const LOCAL = Object.freeze({
  transports: ["shared"], minReconnectMs: 20, maxReconnectMs: 500, proofTimeoutMs: 20_000, climbMs: 0, storage: null,
  token: "", getToken: undefined, getTicket: undefined,
});

/**
 * Return the tab, and the options of the client that goes through it; null where browsers have no Web Locks or no
 * BroadcastChannel, and everyone has a connection of their own.
 */
export function share(base, options, makeClient) {
  if (!options.shared) return null;
  const who = whose(options);
  if (!Tab.isPossible()) return null;
  const tab = new Tab(`${base} ${who}`, () => makeClient({ ...options, shared: false }));
  return { tab, options: { ...options, ...LOCAL, links: new Map([["shared", sharedLink(tab)]]) } };
}

function whose({ shared, token, getToken, getTicket }) {
  if (typeof shared === "string") return `as ${shared}`;
  if (getToken || getTicket) {
    throw new EverywireError(CLIENT.BAD_CALL, 'say whom it is shared for, such as shared: "user-42"');
  }
  return token ? `of ${userOf(token)}` : "";
}

/** The user of a JSON web token; the whole token where it is none. */
function userOf(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.stringify(JSON.parse(atob(payload)).sub ?? token);
  } catch {
    return token;
  }
}
