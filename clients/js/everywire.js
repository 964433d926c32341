// Everywire for browsers and Node: one connection for all channels, over whichever transport works.
//
//   import { Everywire } from "./everywire.js";
//
//   const wire = new Everywire("https://example.com", { getToken });
//   const chat = wire.channel("chat");
//   chat.on("publication", ({ data }) => show(data));
//   chat.subscribe();
//   wire.connect();
//   await chat.publish({ text: "hello" });

export { Channel } from "./channel.js";
export { Everywire } from "./client.js";
export { CLIENT, isTerminal } from "./codes.js";
export { EverywireError, Unauthorized } from "./errors.js";
export { VERSION } from "./options.js";
export { TRANSPORTS } from "./transports/index.js";
