// The chat in Node, through several proxies at once.
//
//     node chat_node.mjs '{"name": {"url": …, "room": …, "holdMs": …}, …}'
//
// Prints one JSON object: by name what `chat` returned, or its error.

import { Everywire } from "../../clients/js/everywire.js";
import { chat } from "./chat.mjs";
import { WebSocket } from "./scripted_server.mjs";

const [cases] = process.argv.slice(2).map((text) => JSON.parse(text));

/** What a browser keeps in localStorage. */
function storage() {
  const kept = new Map();
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
}

const results = await Promise.all(Object.entries(cases).map(async ([name, where]) => {
  const options = { WebSocket, storage: storage() };
  return [name, await chat(Everywire, where, options).catch((error) => ({ error: String(error.stack) }))];
}));
process.stdout.write(JSON.stringify(Object.fromEntries(results)), () => process.exit(0));
