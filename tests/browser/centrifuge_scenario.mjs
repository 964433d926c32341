// What npm's `centrifuge` can do, one thing after the other, over one transport: the same in Node and in a page.
//
// The function stands for itself, so that it can be sent into a browser. It returns a list of {name, ok, detail};
// what it needs the server to do it asks for by the rpc `act` (tests/e2e/test_centrifuge_js.py).

export async function scenario({ Centrifuge, base, transport, protocol, secret, options, inner = "", path = "" }) {
  const isBinary = protocol === "protobuf";
  const wire = transport + inner; // what a transport of more than one way goes by
  const user = `user-${wire}-${protocol}`;
  const name = (what) => `${what}.${wire}.${protocol}`;
  const pack = (value) => (isBinary ? new TextEncoder().encode(JSON.stringify(value)) : value);
  const unpack = (data) => {
    if (!isBinary) return data;
    return data?.length ? JSON.parse(new TextDecoder().decode(data)) : undefined;
  };

  const checks = [];
  const check = (what, ok, detail) => checks.push({ name: what, ok: Boolean(ok), detail });
  const same = (what, found, expected) => {
    const told = JSON.stringify(found);
    check(what, told === JSON.stringify(expected), told);
  };
  const within = (promise, what) => {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`nothing came of: ${what}`)), 15_000);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
  };
  const once = (emitter, event, holds = () => true) =>
    within(
      new Promise((resolve) => {
        const hear = (context) => {
          if (!holds(context)) return;
          emitter.removeListener(event, hear);
          resolve(context);
        };
        emitter.on(event, hear);
      }),
      event,
    );
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  const base64 = (bytes) =>
    btoa(String.fromCharCode(...new Uint8Array(bytes)))
      .replaceAll("+", "-")
      .replaceAll("/", "_")
      .replaceAll("=", "");
  async function sign(claims) {
    const bytes = (text) => new TextEncoder().encode(text);
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    const key = await crypto.subtle.importKey("raw", bytes(secret), algorithm, false, ["sign"]);
    const body = [{ alg: "HS256", typ: "JWT" }, claims].map((one) => base64(bytes(JSON.stringify(one)))).join(".");
    return `${body}.${base64(await crypto.subtle.sign("HMAC", key, bytes(body)))}`;
  }
  const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;

  function client(who, claims, tokenSeconds) {
    let calls = 0;
    const origin = transport === "websocket" ? base.replace(/^http/, "ws") : base;
    const endpoint = origin + (path || `/connection/${transport}`);
    const made = new Centrifuge([{ transport, endpoint }], {
      ...options,
      emulationEndpoint: `${base}/emulation`,
      timeout: 30_000, // a busy machine is no failure
      minReconnectDelay: 50,
      maxReconnectDelay: 300,
      data: pack({ hello: who }),
      name: "interop",
      version: "1.2.3",
      getToken: async () => {
        const seconds = tokenSeconds[Math.min(calls++, tokenSeconds.length - 1)];
        return sign({ sub: who, exp: inSeconds(seconds), info: { name: who }, ...claims });
      },
    });
    return [made, () => calls];
  }
  const subscription = (of, channel, more = {}) =>
    of.newSubscription(channel, {
      positioned: true,
      recoverable: true,
      joinLeave: true,
      minResubscribeDelay: 50,
      maxResubscribeDelay: 200,
      ...more,
    });

  // -- connect, with a subscription of the server's ------------------------------------------

  const [own, tokenCalls] = client(user, { channels: [name("news")] }, [4, 50]);
  const act = async (what, more = {}) => unpack((await own.rpc("act", pack({ do: what, user, ...more }))).data);
  const news = [];
  const serverSide = [];
  const ends = [];
  own.on("publication", ({ channel, data }) => news.push([channel, unpack(data)]));
  own.on("subscribed", ({ channel, recovered, data }) => serverSide.push([channel, recovered, unpack(data)]));
  own.on("disconnected", ({ code }) => ends.push(code));
  const connected = once(own, "connected");
  own.connect();
  const first = await connected;
  check("connect", first.client && first.transport === (inner ? `${transport}-${inner}` : transport), JSON.stringify(first));
  same("connect data", unpack(first.data), { welcome: user, said: { hello: user } });
  same("server-side subscription", serverSide, [[name("news"), false, undefined]]);
  await act("publish", { channel: name("news"), values: ["extra"] });
  while (!news.length) await once(own, "publication");
  same("server-side publication", news, [[name("news"), "extra"]]);

  // -- subscribe, publish, unsubscribe ----------------------------------------------------------

  const chat = subscription(own, name("chat"), { data: pack({ room: 1 }) });
  const heard = [];
  const infos = [];
  chat.on("publication", ({ data, offset, info }) => {
    heard.push([unpack(data), offset]);
    infos.push(info);
  });
  const subscribed = once(chat, "subscribed");
  chat.subscribe();
  const here = await subscribed;
  check("subscribe", here.recoverable && here.positioned && here.streamPosition.epoch, JSON.stringify(here));
  same("subscribe data", unpack(here.data), { asked: { room: 1 } });
  const published = once(chat, "publication");
  await chat.publish(pack({ text: "ä𝄞", big: 1.5 }));
  await published;
  same("publish", heard, [[{ text: "ä𝄞", big: 1.5 }, 1]]);
  same("publisher", [infos[0].user, infos[0].client, unpack(infos[0].connInfo)], [
    user,
    first.client,
    { name: user },
  ]);
  await own.publish(name("chat"), pack("by the client"));
  if (heard.length < 2) await once(chat, "publication");
  same("publish by the client", heard.at(-1), ["by the client", 2]);

  // -- presence ---------------------------------------------------------------------------------

  const members = await chat.presence();
  const me = members.clients[first.client];
  same("presence", [Object.keys(members.clients), me.user, unpack(me.connInfo)], [
    [first.client],
    user,
    { name: user },
  ]);
  same("presence of the client", Object.keys((await own.presence(name("chat"))).clients), [first.client]);
  const [guest] = client(`guest-${user}`, {}, [50]);
  const guestChat = subscription(guest, name("chat"));
  const joined = once(chat, "join", ({ info }) => info.user !== user);
  guestChat.subscribe();
  guest.connect();
  same("join", (await joined).info.user, `guest-${user}`);
  const { numClients, numUsers } = await chat.presenceStats();
  same("presence stats", [numClients, numUsers], [2, 2]);
  const left = once(chat, "leave", ({ info }) => info.user !== user);
  guestChat.unsubscribe();
  same("leave", (await left).info.user, `guest-${user}`);
  guest.disconnect();

  // -- history ------------------------------------------------------------------------------------

  await act("publish", { channel: name("chat"), values: [3, 4, 5] });
  while (heard.length < 5) await once(chat, "publication");
  const offsets = ({ publications }) => publications.map(({ offset }) => offset);
  const all = await chat.history({ limit: -1 });
  same("history", [offsets(all), all.offset, Boolean(all.epoch)], [[1, 2, 3, 4, 5], 5, true]);
  same("history, newest first", offsets(await chat.history({ limit: 2, reverse: true })), [5, 4]);
  const since = { offset: 2, epoch: all.epoch };
  same("history since", offsets(await own.history(name("chat"), { limit: 2, since })), [3, 4]);
  same("history, position alone", offsets(await chat.history()), []);
  const wrong = await chat.history({ limit: 1, since: { offset: 1, epoch: "elsewhere" } }).catch((error) => error);
  same("history, unrecoverable", wrong.code, 112);

  // -- rpc, messages, errors -------------------------------------------------------------------------

  same("rpc", unpack((await own.rpc("echo", pack({ a: [1, "ä"] }))).data), { a: [1, "ä"] });
  const refused = await own.rpc("fail", pack(null)).catch((error) => error);
  same("rpc error", [refused.code, refused.message], [1234, "as asked"]);
  const unknown = await own.rpc("nothing of this name", pack(null)).catch((error) => error);
  same("rpc unknown", unknown.code, 104);
  const message = once(own, "message");
  await own.send(pack({ ping: 1 }));
  same("send and message", unpack((await message).data), { pong: { ping: 1 } });
  own.startBatching();
  const both = Promise.all([own.rpc("echo", pack(1)), own.rpc("echo", pack(2))]);
  own.stopBatching();
  same("batch", (await both).map(({ data }) => unpack(data)), [1, 2]);
  const secretChat = subscription(own, name("forbidden"));
  const denied = once(secretChat, "unsubscribed");
  secretChat.subscribe();
  same("forbidden", (await denied).code, 103);
  const notPublished = await own.publish(name("forbidden"), pack(1)).catch((error) => error);
  same("forbidden to publish", notPublished.code, 103);

  // -- a subscription token, and its refresh --------------------------------------------------------

  let subTokens = 0;
  const closed = subscription(own, name("closed"), {
    getToken: async ({ channel }) => sign({ sub: user, channel, exp: inSeconds(subTokens++ ? 3600 : 3) }),
  });
  let closedEnds = 0;
  closed.on("unsubscribed", () => (closedEnds += 1));
  const opened = once(closed, "subscribed");
  closed.subscribe();
  await opened;

  // -- what the server does to subscriptions -----------------------------------------------------------

  const given = once(own, "subscribed", ({ channel }) => channel === name("given"));
  await act("subscribe", { channel: name("given") });
  same("server subscribes", unpack((await given).data), { given: true });
  const taken = once(own, "unsubscribed", ({ channel }) => channel === name("given"));
  await act("unsubscribe", { channel: name("given"), code: 2000 });
  check("server unsubscribes", await taken);
  const again = once(chat, "subscribed");
  const lost = once(chat, "subscribing");
  await act("unsubscribe", { channel: name("chat"), code: 2500 });
  same("resubscribe code", (await lost).code, 2500);
  check("resubscribed", (await again).recovered);
  const other = subscription(own, name("other"));
  const otherOpen = once(other, "subscribed");
  other.subscribe();
  await otherOpen;
  const otherEnd = once(other, "unsubscribed");
  await act("unsubscribe", { channel: name("other"), code: 2000 });
  same("final unsubscribe code", (await otherEnd).code, 2000);

  // -- recovery after cuts -------------------------------------------------------------------------------

  const numbers = [];
  const counted = subscription(own, name("counted"));
  counted.on("publication", ({ data }) => numbers.push(unpack(data)));
  const recoveries = [];
  counted.on("subscribed", ({ wasRecovering, recovered }) => recoveries.push([wasRecovering, recovered]));
  const newsRecovered = [];
  own.on("subscribed", ({ channel, recovered }) => channel === name("news") && newsRecovered.push(recovered));
  const countedOpen = once(counted, "subscribed");
  counted.subscribe();
  await countedOpen;
  const CUTS = 3;
  const EACH = 40;
  for (let cut = 0; cut < CUTS; cut++) {
    const back = once(counted, "subscribed");
    await act("cut", { channel: name("counted"), values: [...Array(EACH).keys()].map((n) => cut * EACH + n) });
    await back;
    await act("publish", { channel: name("news"), values: [`after cut ${cut}`] });
    while (numbers.length < (cut + 1) * EACH) await once(counted, "publication");
  }
  await pause(100);
  same("recovered after cuts", numbers, [...Array(CUTS * EACH).keys()]);
  same("recoveries", recoveries.slice(-CUTS), Array(CUTS).fill([true, true]));
  same("server-side recovered", newsRecovered, Array(CUTS).fill(true));
  const gone = once(counted, "subscribed");
  await act("cut", { channel: name("counted"), values: ["trimmed"], trim: true });
  const { wasRecovering, recovered } = await gone;
  same("not recoverable is told", [wasRecovering, recovered], [true, false]);
  const newest = once(counted, "publication");
  await act("publish", { channel: name("counted"), values: ["after"] });
  same("goes on after a gap", unpack((await newest).data), "after");

  // -- unsubscribe, refresh ---------------------------------------------------------------------------------

  const unsubscribed = once(chat, "unsubscribed");
  chat.unsubscribe();
  await unsubscribed;
  const before = heard.length;
  await act("publish", { channel: name("chat"), values: ["unheard"] });
  await own.rpc("echo", pack(1));
  same("unsubscribe", heard.length, before);
  for (let waited = 0; (tokenCalls() < 2 || subTokens < 2) && waited < 100; waited++) await pause(100);
  await own.rpc("echo", pack(1));
  check("refresh", tokenCalls() >= 2 && !ends.length, `${tokenCalls()} tokens, ends ${ends}`);
  check("sub refresh", subTokens >= 2 && !closedEnds, `${subTokens} tokens, ends ${closedEnds}`);

  // -- the end -------------------------------------------------------------------------------------------------

  const reconnecting = once(own, "connecting");
  const reconnected = once(own, "connected");
  await act("disconnect", { code: 3011 });
  same("disconnect, reconnect", (await reconnecting).code, 3011);
  check("connected again", (await reconnected).client !== first.client);
  const applications = once(own, "connecting");
  const back = once(own, "connected");
  await act("disconnect", { code: 4100 });
  same("application's code", (await applications).code, 4100);
  await back;
  const ended = once(own, "disconnected");
  await act("disconnect", { code: 3503, reason: "enough" });
  const { code, reason } = await ended;
  same("disconnect, final", [code, reason], [3503, "enough"]);
  const [bad] = client(user, {}, [50]);
  bad.setToken("broken.token.here");
  const badEnd = once(bad, "disconnected");
  bad.connect();
  same("broken token", (await badEnd).code, 3500);
  const [clean] = client(user, {}, [50]);
  const cleanOpen = once(clean, "connected");
  clean.connect();
  await cleanOpen;
  const cleanEnd = once(clean, "disconnected");
  clean.disconnect();
  same("disconnect by the client", (await cleanEnd).code, 0);
  return checks;
}
