// What a polling link follows: each request says it again, and the answers become what a stream would have brought.
//
// Each request is a session of its own life (docs/protocol-sessions.md, long polling). The first subscribe reply of
// a channel is handed on as it is; those that follow are made into pushes: what was recovered into publications, what
// could not be into `unsubscribe`, after which the subscription asks again itself and is told of its gap.

import { Ending } from "../errors.js";
import {
  INSUFFICIENT_STATE, SUBSCRIPTION_EXPIRED, SUBSCRIPTION_GAP, TOKEN_EXPIRED, UNSUBSCRIBED,
} from "../codes.js";

export class Following {
  /** By channel: the request, its command id, where the channel stands (once known). */
  #entries = new Map();
  /** Channels that the server subscribed us to, and where they stand. */
  #serverSide = new Map();
  #asked = new Map();
  #wasConnected = false;

  add({ id, subscribe }) {
    this.#entries.set(subscribe.channel, { request: subscribe, id, position: null, refreshId: 0 });
  }

  /** The channels that are followed by our own wish. */
  get channels() {
    return [...this.#entries.keys()];
  }

  remove(channel) {
    this.#entries.delete(channel);
  }

  /** A new subscription token: it goes with the next request, whose reply answers this command. */
  refresh({ id, sub_refresh: { channel, token } }) {
    const entry = this.#entries.get(channel);
    if (!entry) return;
    entry.request = { ...entry.request, token };
    entry.refreshId = id;
  }

  /** Whether somebody waits for a reply, so that the next request must not be held. */
  get isAwaited() {
    return [...this.#entries.values()].some(({ position, refreshId }) => !position || refreshId);
  }

  /** The subscribe commands of the next request; `nextId` gives ids that no one else uses. */
  commands(nextId) {
    this.#asked.clear();
    return [...this.#entries].map(([channel, { request, id, position }]) => {
      const command = position ? { id: nextId(), subscribe: again(request, position) } : { id, subscribe: request };
      this.#asked.set(command.id, channel);
      return command;
    });
  }

  /** The positions of server-side subscriptions, for the connect request. */
  positions() {
    return Object.fromEntries([...this.#serverSide].map(([channel, at]) => [channel, { recover: true, ...at }]));
  }

  /** The connect reply of a request; returns what it means for a session that goes on. */
  connected({ subs = {} }) {
    const replies = [];
    for (const [channel, result] of Object.entries(subs)) {
      if (this.#serverSide.has(channel)) {
        if (!result.recovered) throw new Ending("lost", "what was missed is gone", { code: INSUFFICIENT_STATE });
        replies.push(...missed(channel, result));
      } else if (this.#wasConnected) {
        replies.push({ push: { channel, subscribe: result } });
      }
      this.#serverSide.set(channel, positionOf(result));
    }
    for (const channel of this.#serverSide.keys()) {
      if (channel in subs) continue;
      this.#serverSide.delete(channel);
      replies.push(ended(channel, UNSUBSCRIBED, "the server ended this subscription"));
    }
    this.#wasConnected = true;
    return replies;
  }

  /** A reply or push of a request; returns what it means for a session that goes on. */
  take(reply) {
    if (reply.push) return [this.#pushed(reply)];
    const channel = this.#asked.get(reply.id);
    const entry = this.#entries.get(channel);
    if (!entry) return channel === undefined ? [reply] : [];
    const isFirst = !entry.position;
    if (reply.error) return isFirst ? this.#refused(channel, reply) : this.#ended(channel, reply.error);
    const result = reply.subscribe;
    if (!isFirst && !result.recovered && entry.position.isRecoverable) {
      this.#entries.delete(channel);
      return [ended(channel, SUBSCRIPTION_GAP, "what was missed is gone")];
    }
    entry.position = { ...positionOf(result), isRecoverable: Boolean(result.recoverable) };
    return [...(isFirst ? [reply] : missed(channel, result)), ...refreshed(entry, result)];
  }

  #refused(channel, reply) {
    this.#entries.delete(channel);
    return [reply];
  }

  #ended(channel, { code, message, temporary }) {
    if (temporary || code < 100) return [];
    this.#entries.delete(channel);
    return [ended(channel, code === TOKEN_EXPIRED ? SUBSCRIPTION_EXPIRED : UNSUBSCRIBED, message)];
  }

  #pushed(reply) {
    const { channel, pub, unsubscribe, subscribe } = reply.push;
    const position = this.#entries.get(channel)?.position ?? this.#serverSide.get(channel);
    if (pub?.offset && position) position.offset = pub.offset;
    if (unsubscribe) {
      this.#entries.delete(channel);
      this.#serverSide.delete(channel);
    }
    if (subscribe) this.#serverSide.set(channel, positionOf(subscribe));
    return reply;
  }
}

function again(request, { epoch, offset, isRecoverable }) {
  const { recover, epoch: _, offset: __, ...rest } = request;
  return isRecoverable ? { ...rest, recover: true, epoch, offset } : rest;
}

function positionOf({ epoch = "", offset = 0, publications = [] }) {
  return { epoch, offset: publications.at(-1)?.offset ?? offset };
}

function missed(channel, { publications = [] }) {
  return publications.map((pub) => ({ push: { channel, pub } }));
}

function ended(channel, code, reason) {
  return { push: { channel, unsubscribe: { code, reason } } };
}

function refreshed(entry, { expires, ttl }) {
  const id = entry.refreshId;
  entry.refreshId = 0;
  return id ? [{ id, sub_refresh: { expires, ttl } }] : [];
}
