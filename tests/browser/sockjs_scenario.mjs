// What npm's `sockjs-client` can do over one transport: the same in Node and in a page.
//
// The function stands for itself, so that it can be sent into a browser. It fills a list of {name, ok, detail}. The
// service at /echo sends back what it gets; the one at /talk is asked by JSON texts (tests/e2e/sockjs_app.py).

export async function scenario({ SockJS, transport, base, name }, checks = []) {
  const check = (what, ok, detail) => checks.push({ name: what, ok: Boolean(ok), detail });
  const same = (what, found, expected) => {
    const told = JSON.stringify(found);
    const wanted = JSON.stringify(expected);
    check(what, told === wanted, told === wanted || `${told?.slice(0, 500)}, and not ${wanted?.slice(0, 300)}`);
  };
  const within = (promise, what) => {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`nothing came of: ${what}`)), 15_000);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
  };
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  function open(service) {
    // The least time that a transport gets to open; else it goes by how quick the machine just was.
    const sock = new SockJS(`${base}/${service}`, null, { transports: [transport], timeout: 10_000 });
    const one = { sock, read: [], ends: [] };
    let woken = () => {};
    sock.onmessage = ({ data }) => (one.read.push(data), woken());
    one.opened = within(new Promise((resolve, reject) => {
      sock.onopen = () => resolve(sock.transport);
      one.refused = reject;
    }), `open ${service}`);
    one.closed = new Promise((resolve) => {
      sock.onclose = ({ code, reason, wasClean }) => {
        one.ends.push([code, reason, wasClean]);
        one.refused(new Error(`closed: ${code} ${reason}`));
        resolve([code, reason, wasClean]);
        woken();
      };
    });
    one.upTo = (number) => within((async () => {
      while (one.read.length < number && !one.ends.length) await new Promise((resolve) => (woken = resolve));
      return one.read;
    })(), `message ${number}`);
    one.ask = async (...what) => {
      const number = one.read.length + 1;
      sock.send(JSON.stringify(what));
      await one.upTo(number);
      return JSON.parse(one.read.at(-1));
    };
    return one;
  }

  // -- echo --------------------------------------------------------------------------------------------

  const echo = open("echo");
  same("open", await echo.opened, transport);
  const texts = ["x", "", "ä𝄞", '"\\/\b\f\n\r\t', "[]", '{"a":1}', "\u0000\u001f\u007f\u0085\u00ad", "</script><!--"];
  for (const [first, last] of [[0x600, 0x604], [0x2000, 0x2070], [0xfe00, 0xfe0f], [0xfff0, 0xffff]]) {
    texts.push(String.fromCharCode(...[...Array(last - first + 1).keys()].map((index) => first + index)));
  }
  texts.forEach((text) => echo.sock.send(text));
  same("echo", await echo.upTo(texts.length), texts);
  const MANY = 500;
  const numbers = [...Array(MANY).keys()].map(String);
  numbers.forEach((text) => echo.sock.send(text));
  same("many, in order", (await echo.upTo(texts.length + MANY)).slice(texts.length), numbers);
  const big = "0123456789".repeat(10_000);
  for (let number = 0; number < 5; number++) echo.sock.send(big + number);
  const bigs = (await echo.upTo(texts.length + MANY + 5)).slice(-5);
  check("big ones, in order", bigs.every((text, number) => text === big + number), bigs.map((text) => text.length));
  echo.sock.close();
  same("close by the client", await within(echo.closed, "close"), [1000, "Normal closure", true]);

  // -- the server speaks and closes ------------------------------------------------------------------------

  const talk = open("talk");
  await talk.opened;
  same("hello", await talk.ask("name", `${name} one`), "hello");
  const before = talk.read.length;
  talk.sock.send(JSON.stringify(["count", 300]));
  same("the server speaks", (await talk.upTo(before + 300)).slice(before), [...Array(300).keys()].map(String));
  same("big from the server", (await talk.ask("big", 300_000)).length, 300_000);
  talk.sock.send(JSON.stringify(["close", 3456]));
  same("close by the server", (await within(talk.closed, "close")).slice(0, 2), [3456, "as asked"]);

  // -- cut, and another connection ---------------------------------------------------------------------------

  const cut = open("talk");
  await cut.opened;
  await cut.ask("name", `${name} two`);
  await cut.ask("cut", name);
  if (transport.endsWith("htmlfile")) {
    // A page never hears that its iframe's answer broke off.
    await pause(200);
    cut.sock.close();
  }
  const [code] = await within(cut.closed, "close after a cut");
  check("cut", transport.endsWith("htmlfile") ? code === 1000 : [1002, 1006].includes(code), JSON.stringify(cut.ends));
  await pause(500);
  const again = open("talk");
  await again.opened;
  same("connects again", await again.ask("name", `${name} three`), "hello");
  let ends;
  for (let tries = 0; tries < 200; tries++) {
    ends = await again.ask("ends");
    if (ends[`${name} one`] && ends[`${name} two`]) break;
    await pause(50);
  }
  same("the server knows of ends, once each", [ends[`${name} one`], ends[`${name} two`]], [1, 1]);
  check("closes only once", [echo, talk, cut].every((one) => one.ends.length === 1));
  again.sock.close(3001, "enough");
  same("close with a code", (await within(again.closed, "close")).slice(0, 2), [3001, "enough"]);
  return checks;
}
