/** Everywire for browsers and Node: one connection for all channels, over whichever transport works. */

/** What JSON can say. Publications that are no JSON come as `Uint8Array`, with their `contentType`. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

export type Transport = "websocket" | "http_stream" | "sse" | "long-poll" | "poll";
export const TRANSPORTS: readonly Transport[];
export const VERSION: string;

/** Codes below 100 are made by this client and never travel; the others are in docs/codes.md. */
export const CLIENT: Readonly<{
  TIMEOUT: 1;
  CONNECTION_LOST: 2;
  DISCONNECTED: 3;
  UNSUBSCRIBED: 4;
  TOO_MANY: 5;
  NO_TOKEN: 6;
  BAD_CALL: 7;
}>;

/** Whether a connection that ended with this code must not come back (3500 to 3999, 4500 to 4999). */
export function isTerminal(code: number): boolean;

/** Where a reader stands in a channel. */
export interface Position {
  epoch: string;
  offset: number;
}

export interface ClientInfo {
  user: string;
  client: string;
  connInfo?: Json;
  channelInfo?: Json;
}

export interface Publication<Data = any> {
  channel: string;
  /** 1 and up without holes; 0 when the channel keeps none. */
  offset: number;
  data: Data;
  /** Set when `data` is a `Uint8Array`. */
  contentType?: string;
  /** The event's name, if it has one. */
  event?: string;
  tags?: { [name: string]: string };
  /** Who published it, when a client did. */
  info?: ClientInfo;
  /** Milliseconds since 1970. */
  time?: number;
}

/** Something is missing: offsets `from` to `to`, both included; both null when the channel began anew. */
export interface Gap {
  channel: string;
  from: number | null;
  to: number | null;
  /** trimmed: no longer kept; reset: another epoch; skipped: left out by the channel's policy. */
  reason: "trimmed" | "reset" | "skipped";
}

export interface Subscribed {
  channel: string;
  /**
   * new: there was no position to go on from; recovered: everything that was missed follows; trimmed, reset: a `gap`
   * event follows; kept: it was subscribed already.
   */
  outcome: "new" | "recovered" | "trimmed" | "reset" | "kept";
  /** Whether this is a move to another transport while connected. */
  isMove: boolean;
  position: Position | null;
  data?: any;
  /** The channel's state as of the position, where the application gives one. */
  snapshot?: any;
}

export interface Unsubscribed {
  channel: string;
  code: number;
  reason: string;
}

/** One attempt to connect by one transport, and how it ended. */
export interface Attempt {
  transport: Transport | "shared";
  purpose: "connect" | "climb";
  /**
   * won; blocked: the path does not let it through; lost: it broke off, or nobody answered; late: another was there
   * first; busy, expired, refused: the server itself said so; cancelled.
   */
  outcome: "won" | "blocked" | "lost" | "late" | "busy" | "expired" | "refused" | "cancelled";
  reason: string;
  tookMs: number;
  /** Milliseconds since 1970. */
  at: number;
}

/** Why a promise was rejected. */
export class EverywireError extends Error {
  constructor(code: number, message: string, details?: { temporary?: boolean; wasSent?: boolean; cause?: unknown });
  readonly code: number;
  /** Whether trying again may help. */
  readonly temporary: boolean;
  /** Whether the command was sent; without a reply it may have been carried out or not. */
  readonly wasSent: boolean;
}

/** Thrown by your `getToken` or `getTicket`: there is no permission, and asking again is of no use. */
export class Unauthorized extends EverywireError {
  constructor(message?: string);
}

export interface Options {
  /** A connection token (JWT) by value; it cannot be refreshed. */
  token?: string;
  /** Called for a connection token: at the start, and before it runs out. */
  getToken?: () => string | Promise<string>;
  /** Called for a ticket (`POST /ticket`) for each connect, where there is no token or it would stand in a URL. */
  getTicket?: () => string | Promise<string>;
  /** For the application's connect hook. */
  data?: Json;
  /** Sent with every HTTP request (not with WebSocket and EventSource, which cannot). */
  headers?: Record<string, string>;
  /** Whether cookies go along with HTTP requests. Default: "same-origin". */
  credentials?: RequestCredentials;
  /** At most 16 characters; for the server's log. */
  name?: string;
  version?: string;
  /** The best first. Default: all. */
  transports?: readonly Transport[];
  /** The head start of each candidate over the next. Default: 1,000. */
  headStartMs?: number;
  /** For data to go both ways; grows with failures, up to 20 s. Default: 5,000. */
  proofTimeoutMs?: number;
  /** For the reply to a command, and for the connection that it waits for. Default: 10,000. */
  commandTimeoutMs?: number;
  /** How much longer than the server's ping interval there may be silence. Default: 10,000. */
  pingGraceMs?: number;
  /** The bound of the first delay; it doubles. Delays have full jitter. Default: 500. */
  minReconnectMs?: number;
  /** The bound of all delays but the server's own. Default: 20,000. */
  maxReconnectMs?: number;
  /** How long to wait when the server is busy and does not say how long. Default: 2,000. */
  busyMs?: number;
  /** When to try a better transport, the first time; then three times as long. 0: never. Default: 30,000. */
  climbMs?: number;
  /**
   * One connection for all tabs of this origin that say the same. A string names whom it is for, such as the user: it
   * is needed with `getToken` and `getTicket`. True: among tabs with the same `token`'s user, or with none.
   */
  shared?: boolean | string;
  /** Where to remember what worked. Default: localStorage, where there is one. Null: nowhere. */
  storage?: Pick<Storage, "getItem" | "setItem"> | null;
  /** Default: the global ones; null for none. Node 20 has no WebSocket: give npm's `ws`. */
  WebSocket?: unknown;
  EventSource?: unknown;
  fetch?: typeof fetch;
}

export interface ChannelOptions {
  /** A subscription token by value; it cannot be refreshed. */
  token?: string;
  /** Called for a subscription token: at the start, and before it runs out. */
  getToken?: (asked: { channel: string }) => string | Promise<string>;
  /** For the application's subscribe hook. */
  data?: Json;
  /** Whether joins and leaves are wanted. */
  joinLeave?: boolean;
  /** Go on from here. `{ epoch: "", offset: 0 }`: from the first publication that ever was. */
  since?: Position;
  minResubscribeMs?: number;
  maxResubscribeMs?: number;
}

export interface HistoryOptions {
  /** -1: all that one answer holds; 0: only where the channel stands. Default: -1. */
  limit?: number;
  /** Exclusive. */
  since?: Position;
  /** From the newest. */
  reverse?: boolean;
}

export interface History<Data = any> extends Position {
  publications: Publication<Data>[];
}

export interface ChannelEvents<Data = any> {
  publication: Publication<Data>;
  subscribed: Subscribed;
  /** The subscription has ended: `unsubscribe()`, the server's wish, or a refusal. */
  unsubscribed: Unsubscribed;
  gap: Gap;
  join: { channel: string; info: ClientInfo };
  leave: { channel: string; info: ClientInfo };
  /** More came and went than was told one by one: ask for `presence()` again. */
  presence: { channel: string };
  /** Subscribing or refreshing failed; whether it is tried again shows in `state`. */
  error: { channel: string; error: EverywireError };
  state: { channel: string; state: ChannelState; previous: ChannelState };
}

export type ChannelState = "unsubscribed" | "subscribing" | "subscribed";
export type State = "disconnected" | "connecting" | "connected";

/** One channel: publications once each, in order, whatever happens to connections. */
export class Channel<Data = any> {
  private constructor();
  readonly name: string;
  readonly state: ChannelState;
  /** Whether the server subscribed this client by itself. */
  readonly isServerSide: boolean;
  readonly position: Position | null;
  /** Subscribe, and stay subscribed. Resolves when subscribed, rejects when it is refused. */
  subscribe(): Promise<Subscribed>;
  /** Unsubscribe; the position is forgotten. */
  unsubscribe(): void;
  /** Resolves when the server has it in the channel's log. */
  publish(data: Json): Promise<void>;
  presence(): Promise<{ [client: string]: ClientInfo }>;
  presenceStats(): Promise<{ clients: number; users: number }>;
  history(options?: HistoryOptions): Promise<History<Data>>;
  on<Name extends keyof ChannelEvents>(name: Name, listener: (event: ChannelEvents<Data>[Name]) => void): () => void;
  once<Name extends keyof ChannelEvents>(name: Name, listener: (event: ChannelEvents<Data>[Name]) => void): () => void;
  off<Name extends keyof ChannelEvents>(name: Name, listener?: (event: ChannelEvents<Data>[Name]) => void): this;
}

export interface ClientEvents
  extends Pick<ChannelEvents, "publication" | "subscribed" | "unsubscribed" | "gap" | "join" | "leave" | "presence"> {
  connected: { client: string; transport: string; data?: any };
  /** The connection is gone. `retryMs` is when the next attempt is made. */
  disconnected: { code: number; reason: string; willReconnect: boolean; retryMs?: number };
  /** From one transport to another, nothing interrupted. */
  moved: { from: string; to: string; client: string };
  /** A message of the application to this client. */
  message: { data: any };
  /** The credential is about to run out; it is refreshed if there is a `getToken`. */
  expiring: { inMs: number };
  attempt: Attempt;
  /** Connecting or refreshing failed, and is tried again. */
  error: { error: EverywireError; retryMs?: number };
  state: { state: State; previous: State };
}

/** One connection for all channels. Events named as a channel's are of subscriptions that the server made. */
export class Everywire {
  /** `url`: of the server, with the path it lives under; default: the page's own origin. */
  constructor(url?: string | URL, options?: Options);
  readonly state: State;
  /** This client's id on the server; "" before the first connection. */
  readonly client: string;
  /** The transport in use; "" while there is no connection. In a shared client, that of the tab that holds it. */
  readonly transport: Transport | "";
  /** Whether this tab's connection is one for all tabs. */
  readonly isShared: boolean;
  /** The last fifty attempts, the latest last. */
  readonly attempts: Attempt[];
  /** Resolves when there is a connection, rejects when the server refuses for good. */
  connect(): Promise<void>;
  /** Channels keep their positions: a later `connect()` goes on from there. */
  disconnect(): void;
  /** Drop the connection and make a new one, by `transport` if it is named; nothing is lost by it. */
  reconnect(transport?: Transport): void;
  /** Try better transports than the one in use now, rather than in a while. */
  climb(): void;
  /** The same object for the same name; the options count the first time. */
  channel<Data = any>(name: string, options?: ChannelOptions): Channel<Data>;
  publish(channel: string, data: Json): Promise<void>;
  /** Call a method of the application. */
  rpc<Result = any>(method: string, data?: Json): Promise<Result>;
  /** A message to the application. Resolves when it was handed to a connection; there is no reply. */
  send(data: Json): Promise<void>;
  presence(channel: string): Promise<{ [client: string]: ClientInfo }>;
  presenceStats(channel: string): Promise<{ clients: number; users: number }>;
  history<Data = any>(channel: string, options?: HistoryOptions): Promise<History<Data>>;
  on<Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void): () => void;
  once<Name extends keyof ClientEvents>(name: Name, listener: (event: ClientEvents[Name]) => void): () => void;
  off<Name extends keyof ClientEvents>(name: Name, listener?: (event: ClientEvents[Name]) => void): this;
}
