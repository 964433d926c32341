// What npm's `socket.io-client` can do, one thing after the other, in one version and one mode: the same in Node and
// in a page.
//
// The function stands for itself, so that it can be sent into a browser. It fills a list of {name, ok, detail};
// what it needs the server to do it asks for by the event `act` (tests/e2e/socketio_app.py). `most` is how many bytes go
// into one message, so that it fits into a POST as the version and mode write it.

export async function scenario({ io, version, mode, base, token, user, name, options, most = 700_000 }, checks = []) {
  const transports = mode === "upgrade" ? ["polling", "websocket"] : [mode];
  const room = (what) => `${what}.${name}`;
  const channel = room("news");

  const DEADLINE_MS = 40_000; // many run at once, on machines that have other things to do

  const check = (what, ok, detail) => checks.push({ name: what, ok: Boolean(ok), detail });
  const same = (what, found, expected) => {
    const told = JSON.stringify(found);
    const wanted = JSON.stringify(expected);
    check(what, told === wanted, told === wanted || `${told?.slice(0, 500)}, and not ${wanted?.slice(0, 300)}`);
  };
  const within = (promise, what) => {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`nothing came of: ${what}`)), DEADLINE_MS);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
  };
  const once = (emitter, event) => within(new Promise((resolve) => emitter.once(event, (...args) => resolve(args))), event);
  const until = async (holds, what) => {
    const end = Date.now() + DEADLINE_MS;
    while (!holds()) {
      if (Date.now() > end) throw new Error(`this never came to hold: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  // Node gives a Buffer, a page an ArrayBuffer.
  const plain = (value) => {
    if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return { bytes: [...new Uint8Array(value)] };
    if (Array.isArray(value)) return value.map(plain);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
  };
  const call = (to, event, ...args) => {
    const what = `ack of ${event} ${args[0]?.do ?? ""}`.trim();
    return within(new Promise((resolve) => to.emit(event, ...args, (...answer) => resolve(answer))), what);
  };
  const act = async (what, more = {}, by = socket) => (await call(by, "act", { do: what, name, ...more }))[0];
  // Nothing waits for an ack here: if no poll is there for it in time, it is lost with the connection.
  const cutOff = (more) => socket.emit("act", { do: "cut", name, channel, ...more });

  const opened = [];
  const open = (namespace, auth = {}, more = {}) => {
    const made = io(base + namespace, {
      transports,
      forceNew: true,
      reconnectionDelay: 20,
      reconnectionDelayMax: 300,
      timeout: DEADLINE_MS,
      ...(version > 2 && { auth }),
      ...options,
      ...more,
    });
    opened.push(made);
    return made;
  };
  const settled = async (made) => {
    await once(made, "connect");
    const engine = made.io.engine;
    if (mode === "upgrade" && engine.transport.name !== "websocket") await once(engine, "upgrade");
    return engine.transport.name;
  };
  const refusal = async (made) => {
    const [error] = await once(made, version > 2 ? "connect_error" : "error");
    return [error.message ?? error, error.data];
  };

  // -- connect ------------------------------------------------------------------------------------

  const socket = open("/", { token, name });
  const welcome = once(socket, "welcome");
  same("connect", await settled(socket), mode === "polling" ? "polling" : "websocket");
  const [{ sid, ...welcomed }] = await welcome;
  same("welcome", [sid, welcomed.recovered], [socket.id, false]);
  if (version > 2) same("auth", welcomed.auth, { token, name });
  if (user) same("user", welcomed.user, user);

  // -- events and acks, both ways ---------------------------------------------------------------------

  const values = [1.5, -7, "ä𝄞\u2028\u0000\"\\", true, null, { a: [{ b: {} }], "": "" }, []];
  same("ack", await call(socket, "echo", ...values), values);
  same("ack, nothing", await call(socket, "echo"), []);
  for (const [number, args] of [[], [values], values, ["2", "last string"]].entries()) {
    const back = once(socket, "back");
    socket.emit("again", ...args);
    same(`event ${number}`, (await back).slice(0, args.length), args);
  }
  // Version 2 knows views of bytes in pages only.
  const asBytes = (view) => (version === 2 ? view.buffer : view);
  const bytes = (...numbers) => asBytes(new Uint8Array(numbers));
  const binary = [bytes(0, 1, 254, 255), { a: bytes(), b: ["x", bytes(7), { c: bytes(1, 2, 3) }] }, bytes(4)];
  same("binary ack", plain(await call(socket, "echo", ...binary)), plain(binary));
  const binaryBack = once(socket, "back");
  socket.emit("again", ...binary);
  same("binary event", plain((await binaryBack).slice(0, 3)), plain(binary));
  const bare = once(socket, "back");
  socket.emit("again", bytes(9, 0, 9));
  same("binary alone", plain((await bare)[0]), { bytes: [9, 0, 9] });
  socket.on("question", (number, answer) => answer(number + 1, "of", bytes(number)));
  same("server asks", plain(await act("ask", { number: 41 })), [42, "of", { bytes: [41] }]);
  same("server asks in vain", await act("ask_in_vain"), "timed out");
  const several = await Promise.all([...Array(20).keys()].map((number) => call(socket, "echo", number)));
  same("many acks", several.flat(), [...Array(20).keys()]);
  if (version === 4) {
    same("emitWithAck", await socket.timeout(DEADLINE_MS).emitWithAck("echo", "one"), "one");
    const late = await socket.timeout(150).emitWithAck("never").catch((error) => error.message);
    same("ack that never comes", late, "operation has timed out");
  }
  same("nobody hears it", (await call(socket, "echo", "still here"))[0], "still here");
  const soft = [];
  socket.on("soft", (text) => soft.push(text));
  // It is dropped while nothing can be written, as between two polls.
  for (let tries = 0; tries < 100 && !soft.length; tries++) {
    await act("volatile", { text: "soft" });
    await pause(20 + 5 * tries);
  }
  same("volatile", soft[0], "soft");
  if (version > 2) {
    const hard = once(socket, "back");
    // It is dropped while something else is being written.
    const tries = setInterval(() => socket.volatile.emit("again", "hard"), 20);
    same("volatile of the client", (await hard)[0], "hard");
    clearInterval(tries);
  }

  // -- namespaces ---------------------------------------------------------------------------------------

  const chat = socket.io.socket("/chat", version > 2 ? { auth: { token, name: "in chat" } } : {});
  const hello = once(chat, "welcome");
  await once(chat, "connect");
  const inChat = (await hello)[0];
  same("namespace", [inChat.sid, chat.id !== socket.id], [chat.id, true]);
  if (version > 2) same("namespace auth", inChat.auth.name, "in chat");
  same("namespace ack", await call(chat, "echo", "in chat"), ["in chat", "/chat"]);
  same("other namespace", await refusal(socket.io.socket("/nowhere")), ["Invalid namespace", undefined]);
  const closed = await refusal(socket.io.socket("/closed"));
  same("refused", version > 2 ? closed : closed[0], version > 2 ? ["not you", { why: "closed" }] : closed[0]);
  check("refused, with why", JSON.stringify(closed).includes(version > 2 ? "not you" : "closed"), JSON.stringify(closed));
  const chatHears = [];
  chat.on("said", (text) => chatHears.push(text));
  await act("join", { room: room("a") }, chat);

  // -- rooms ------------------------------------------------------------------------------------------------

  const guest = open("/", { name: "guest" });
  await settled(guest);
  const heard = { own: [], guest: [] };
  socket.on("said", (text) => heard.own.push(text));
  guest.on("said", (text) => heard.guest.push(text));
  for (const one of [socket, guest]) await act("join", { room: room("a") }, one);
  await act("join", { room: room("b") }, guest);
  await act("say", { room: room("a"), text: "sender skipped" });
  await act("say_all", { rooms: [room("a"), room("b")], text: "two rooms" });
  await act("say_all", { rooms: [room("a")], except: room("b"), text: "but b" });
  await act("say_all", { rooms: [socket.id], text: "own room" });
  await act("say_all", { rooms: [room("a")], text: "end" });
  await until(() => heard.own.length >= 4 && heard.guest.length >= 3, "what is said in rooms");
  same("rooms", heard, {
    own: ["two rooms", "but b", "own room", "end"],
    guest: ["sender skipped", "two rooms", "end"],
  });
  await act("leave", { room: room("a") }, guest);
  await act("say_all", { rooms: [room("a")], text: "left" });
  await act("say_all", { rooms: [room("b")], text: "right" });
  await until(() => heard.own.includes("left") && heard.guest.includes("right"), "rooms after one was left");
  same("left a room", [heard.guest.at(-1), heard.guest.includes("left")], ["right", false]);
  same("rooms of another namespace are others", chatHears, []);
  await act("say_all", { rooms: [room("a")], text: "in chat" }, chat);
  await until(() => chatHears.length, "what is said in a room of a namespace");
  same("room of a namespace", [chatHears, heard.own.includes("in chat")], [["in chat"], false]);

  // -- channels ------------------------------------------------------------------------------------------------

  const news = [];
  socket.on("message", (data) => news.push(data));
  const named = once(socket, "headline");
  await act("join", { room: channel });
  await act("publish", { channel, values: ["first", { second: 2 }, null] });
  await act("publish", { channel, values: ["by name"], event: "headline" });
  same("publication by its event", (await named)[0], "by name");
  same("publications", news, ["first", { second: 2 }, null]);
  await act("say_all", { rooms: [channel], text: "by Socket.IO" });
  const log = await act("read", { channel });
  same("an event is a publication", log.at(-1), ["said", "by Socket.IO"]);

  // -- big and many ----------------------------------------------------------------------------------------------

  const long = "0123456789ä".repeat(most / 13);
  same("big text up", (await call(socket, "size", long))[0], long.length);
  const bigger = "x".repeat(most);
  check("big text both ways", (await call(socket, "echo", bigger))[0] === bigger);
  const large = asBytes(new Uint8Array(most).map((_, index) => index % 251));
  const [largeBack] = await call(socket, "echo", large);
  check("big binary both ways", new Uint8Array(largeBack).every((byte, index) => byte === index % 251));
  same("bigger down", (await act("big", { size: 3_000_000 })).length, 3_000_000);
  const MANY = 1_000;
  const order = [];
  const counted = (number) => order.push(number);
  socket.on("counted", counted);
  for (let number = 0; number < MANY; number++) socket.emit("count", number);
  await until(() => order.length >= MANY, "many events");
  same("many events in order", order, [...Array(MANY).keys()]);
  socket.off("counted", counted);

  // -- ends, one at a time ---------------------------------------------------------------------------------------

  const left = chat.id;
  chat.disconnect();
  same("the other namespace goes on", (await call(socket, "echo", 1))[0], 1);
  const kicked = once(guest, "disconnect");
  await act("kick", {}, guest);
  same("server disconnects", (await kicked)[0], "io server disconnect");
  await pause(100);
  check("no reconnection of itself", !guest.connected);
  const kickedId = guest.id;
  guest.connect();
  await settled(guest);
  check("connects again", guest.connected && guest.id !== kickedId);
  const gone = guest.id;
  guest.disconnect();
  const ends = await (async () => {
    const wanted = [left, gone];
    for (let tries = 0; tries < 300; tries++) {
      const found = await act("ends");
      if (wanted.every((one) => found[one])) return wanted.map((one) => found[one]);
      await pause(20);
    }
    return await act("ends");
  })();
  // Node's servers say "client namespace disconnect".
  check("the server knows of ends", ends.every?.((reason) => /^client.* disconnect$/.test(reason)), JSON.stringify(ends));

  // -- cuts ----------------------------------------------------------------------------------------------------------

  const recovers = version === 4;
  const numbers = [];
  socket.on("message", (data) => typeof data === "number" && numbers.push(data));
  await act("remember", { what: "me" });
  const CUTS = 3;
  const EACH = 30;
  let reconnections = 0;
  for (let cut = 0; cut < CUTS; cut++) {
    const before = socket.id;
    const lost = once(socket, "disconnect");
    const back = once(socket, "connect");
    cutOff({ values: [...Array(EACH).keys()].map((number) => cut * EACH + number) });
    const [reason] = await lost;
    check(`cut ${cut}`, ["transport close", "transport error", "ping timeout"].includes(reason), reason);
    await back;
    reconnections++;
    if (recovers) {
      same(`recovered ${cut}`, [socket.recovered, socket.id === before], [true, true]);
    } else {
      check(`connected again ${cut}`, socket.id !== before && !socket.recovered);
      await act("join", { room: channel });
    }
    await act("mend", { channel });
    await until(() => numbers.at(-1) === (cut + 1) * EACH - 1, `numbers after cut ${cut}`);
  }
  if (recovers) {
    same("nothing lost", numbers, [...Array(CUTS * EACH).keys()]);
    const known = await act("known");
    same("what was remembered", [known.memo.what, known.recovered, known.rooms.includes(channel)], ["me", true, true]);
  } else {
    const isRising = numbers.every((number, index) => !index || number > numbers[index - 1]);
    check("went on", isRising && numbers.length >= EACH, JSON.stringify(numbers));
  }
  same("acks after cuts", (await call(socket, "echo", "again"))[0], "again");
  if (mode === "upgrade") await until(() => socket.io.engine.transport.name === "websocket", "upgrade after a cut");

  const old = socket.id;
  const back = once(socket, "connect");
  cutOff({ values: ["trimmed"], trim: true });
  await back;
  check("what cannot be recovered is told", !socket.recovered && socket.id !== old);
  const known = await act("known");
  same("begins anew", [known.recovered, known.rooms.includes(channel)], [false, false]);
  await act("join", { room: channel });
  await act("publish", { channel, values: ["afterwards"] });
  await until(() => news.at(-1) === "afterwards", "publications after a new beginning");

  // -- the end ---------------------------------------------------------------------------------------------------------

  for (const one of opened) one.disconnect();
  await pause(50);
  check("ended", opened.every((one) => !one.connected) && reconnections === CUTS);
  return checks;
}
