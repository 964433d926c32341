// A small server of the session protocol whose every answer a test can script: for faults that have to be exact.
//
// It keeps channels in memory and answers connect, subscribe (with recovery), unsubscribe, publish, presence,
// history, rpc, ping, refresh and sub_refresh on all five transports. `script` has functions that a test replaces:
// each gets what is asked and may return an error, a delay or an answer of its own.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const require = createRequire(fileURLToPath(new URL("../browser/package.json", import.meta.url)));
export const { WebSocket, WebSocketServer } = require("ws");

const TICK_MS = 20;

export class ScriptedServer {
  epoch = "e1";
  channels = new Map();
  sessions = new Map();
  /** What was asked, in order: { transport, command }. */
  asked = [];
  /** Characters of the longest message of commands. */
  longest = 0;
  /** Requests by path. */
  requests = {};
  ping = { ping: 25, pong: true };
  script = {
    /** An HTTP answer instead of the usual one: { status, headers, body }, or "hang". */
    request: () => null,
    /** A close code instead of an open WebSocket, "silent", or null. */
    socket: () => null,
    /** A reply instead of the usual one: { error } or a result; the usual one later: { afterMs }; or "ignore". */
    command: () => null,
    ticks: true,
    connectResult: () => ({}),
    subscribeResult: () => ({}),
  };
  #next = 1;

  async start() {
    this.server = createServer((request, response) => this.#serve(request, response));
    const sockets = new WebSocketServer({ noServer: true });
    this.server.on("upgrade", (request, socket, head) => {
      this.#count(request);
      const answer = this.script.request(request);
      if (answer) {
        socket.on("error", () => {}); // it may be gone before it reads this
        return socket.end(`HTTP/1.1 ${answer.status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
      }
      sockets.handleUpgrade(request, socket, head, (opened) => this.#socket(opened));
    });
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}`;
    return this;
  }

  async stop() {
    this.cut();
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  /** Break every connection without a word. */
  cut() {
    for (const session of [...this.sessions.values()]) session.cut();
  }

  /** Of one kind: how many commands of this name were asked. */
  count(name) {
    return this.asked.filter(({ command }) => name in command).length;
  }

  channel(name) {
    if (!this.channels.has(name)) this.channels.set(name, []);
    return this.channels.get(name);
  }

  /** Put something into a channel's log only. */
  keep(name, data) {
    const log = this.channel(name);
    const pub = { data, offset: log.length + 1 };
    log.push(pub);
    return pub;
  }

  publish(name, data) {
    this.push(name, this.keep(name, data));
  }

  /** Tell everyone in a channel. */
  push(name, pub) {
    for (const session of [...this.sessions.values()]) {
      if (session.channels.has(name)) session.push({ channel: name, pub });
    }
  }

  #count({ url }) {
    const path = url.split("?")[0];
    this.requests[path] = (this.requests[path] ?? 0) + 1;
  }

  #session(transport, write, end, cut) {
    const id = `s${this.#next++}`;
    const session = {
      id, transport, client: `c-${id}`, channels: new Set(),
      write, end, cut: () => (this.sessions.delete(id), cut()),
      push: (push) => write([{ push }]),
    };
    this.sessions.set(id, session);
    return session;
  }

  #socket(socket) {
    const fate = this.script.socket();
    if (fate === "silent") return;
    if (fate) return socket.close(fate.code, fate.reason);
    const session = this.#session(
      "websocket",
      (replies) => socket.send(replies.map((reply) => JSON.stringify(reply)).join("\n")),
      (code, reason) => socket.close(code, reason),
      () => socket.terminate(),
    );
    socket.on("message", (message) => this.#take(session, String(message)));
    socket.on("close", () => this.sessions.delete(session.id));
  }

  async #serve(request, response) {
    this.#count(request);
    const answer = this.script.request(request);
    if (answer === "hang") return;
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    if (answer) {
      response.writeHead(answer.status, answer.headers);
      return response.end(typeof answer.body === "string" ? answer.body : JSON.stringify(answer.body ?? {}));
    }
    const url = new URL(request.url, "http://x");
    if (url.pathname === "/emulation") return this.#emulated(JSON.parse(body), response);
    if (url.pathname === "/connection/poll") return this.#poll(url, body, response);
    this.#stream(url, body, response);
  }

  #emulated({ session, data }, response) {
    const found = this.sessions.get(session);
    response.writeHead(204).end();
    if (found) this.#take(found, data);
  }

  #stream(url, body, response) {
    const isSse = url.pathname.endsWith("/sse");
    const format = (reply) => (isSse ? `data: ${JSON.stringify(reply)}\n\n` : `${JSON.stringify(reply)}\n`);
    response.writeHead(200, { "content-type": isSse ? "text/event-stream" : "application/json" });
    response.flushHeaders();
    const session = this.#session(
      isSse ? "sse" : "http_stream",
      (replies) => response.writableEnded || response.write(replies.map(format).join("")),
      (code, reason) => (session.push({ disconnect: { code, reason } }), response.end()),
      () => response.destroy(),
    );
    response.on("close", () => this.sessions.delete(session.id));
    this.#take(session, isSse && url.searchParams.get("cf_connect") || body);
  }

  #poll(url, body, response) {
    const held = [];
    const waitMs = 1000 * Number(url.searchParams.get("wait") ?? 0);
    let timer;
    let isOver = false;
    const finish = () => {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      this.sessions.delete(session.id);
      response.writeHead(200, { "content-type": "application/x-ndjson", ...(waitMs ? {} : { "retry-after": "0" }) });
      response.end(held.map((reply) => `${JSON.stringify(reply)}\n`).join(""));
    };
    const isQuiet = (result) => result.recovered && !result.publications?.length;
    const isTelling = ({ connect, subscribe }) =>
      connect ? !Object.values(connect.subs ?? {}).every(isQuiet) : !(subscribe && isQuiet(subscribe));
    let isReading = true;
    const session = this.#session("poll", (replies) => {
      held.push(...replies);
      if (!isReading && replies.some(isTelling)) finish();
    }, () => finish(), () => ((isOver = true), clearTimeout(timer), this.sessions.delete(session.id), response.destroy()));
    response.on("close", () => session.cut());
    this.#take(session, body);
    isReading = false;
    if (!waitMs || held.some(isTelling)) finish();
    else timer = setTimeout(finish, waitMs);
  }

  #take(session, text) {
    this.longest = Math.max(this.longest, text.length);
    for (const line of text.split("\n").filter(Boolean)) this.#command(session, JSON.parse(line));
  }

  #command(session, command) {
    this.asked.push({ transport: session.transport, command });
    const [name] = Object.keys(command).filter((key) => key !== "id");
    if (!name || name === "send") return;
    const scripted = this.script.command(name, command[name], session) || null;
    if (scripted === "ignore") return;
    if (scripted?.afterMs) setTimeout(() => this.sessions.has(session.id) && this.#reply(session, command, name), scripted.afterMs);
    else this.#reply(session, command, name, scripted);
  }

  #reply(session, command, name, scripted = null) {
    const answer = scripted ?? this.#answer(session, name, command[name]);
    session.write([answer.error ? { id: command.id, error: answer.error } : { id: command.id, [name]: answer }]);
    if (name === "connect" && !answer.error) this.#tick(session, command.connect.ticks ?? 0);
  }

  #tick(session, ticks) {
    if (!this.script.ticks) return;
    for (let n = 1; n <= ticks; n++) {
      setTimeout(() => this.sessions.has(session.id) && session.push({ tick: { n } }), n * TICK_MS);
    }
  }

  #answer(session, name, request) {
    switch (name) {
      case "connect": {
        const isPoll = session.transport === "poll";
        if (request.session) session.client = `c-${request.session}`;
        return {
          client: session.client,
          session: request.session ?? session.id,
          node: "n",
          ...(isPoll ? {} : this.ping),
          ...this.script.connectResult(session, request),
        };
      }
      case "subscribe": return this.#subscribe(session, request);
      case "unsubscribe": return session.channels.delete(request.channel), {};
      case "publish": return this.publish(request.channel, request.data), {};
      case "presence": return { presence: { [session.client]: { user: "u", client: session.client } } };
      case "presence_stats": return { num_clients: 1, num_users: 1 };
      case "history": return this.#history(request);
      case "rpc": return { data: { method: request.method, data: request.data } };
      case "refresh": return { client: session.client, expires: true, ttl: 3600 };
      case "sub_refresh": return { expires: true, ttl: 3600 };
      default: return {};
    }
  }

  #subscribe(session, { channel, recover, epoch, offset = 0 }) {
    const log = this.channel(channel);
    session.channels.add(channel);
    const at = { recoverable: true, positioned: true, epoch: this.epoch, ...this.script.subscribeResult(channel) };
    if (!recover) return { ...at, offset: log.length };
    const oldest = log.findIndex(Boolean) + 1 || log.length + 1;
    if (epoch !== this.epoch || offset > log.length || offset < oldest - 1) {
      return { ...at, was_recovering: true, offset: log.length };
    }
    return { ...at, was_recovering: true, recovered: true, offset, publications: log.slice(offset) };
  }

  #history({ channel, since }) {
    const log = this.channel(channel);
    const oldest = log.findIndex(Boolean) + 1 || log.length + 1;
    if (since && (since.epoch !== this.epoch || since.offset > log.length || since.offset < oldest - 1)) {
      return { error: { code: 112, message: "what follows this position is gone" } };
    }
    return { publications: log.slice(since?.offset ?? oldest - 1), epoch: this.epoch, offset: log.length };
  }

  /** Forget the oldest publications of a channel. */
  trim(name, kept) {
    const log = this.channel(name);
    for (let index = 0; index < log.length - kept; index++) delete log[index];
  }
}
