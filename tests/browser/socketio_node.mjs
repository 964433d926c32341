// npm's `socket.io-client` in Node: versions and modes side by side.
//
//     node socketio_node.mjs '{"cases": [{"version", "mode", "base", "token", "user", "name", "parser"}]}'
//
// Prints {name: [checks]}; see socketio_scenario.mjs.

import { createRequire } from "node:module";

import { scenario } from "./socketio_scenario.mjs";

const require = createRequire(import.meta.url);
const { cases } = JSON.parse(process.argv[2]);

const results = await Promise.all(
  cases.map(async (one) => {
    const io = require(`socket.io-client-${one.version}`);
    const options = {};
    if (one.parser === "msgpack") options.parser = require("socket.io-msgpack-parser");
    // Version 2 has no payload of its own for it.
    if (one.version === 2 && one.token) options.extraHeaders = { Authorization: `Bearer ${one.token}` };
    const checks = [];
    const failed = (error) => checks.push({ name: "ran to its end", ok: false, detail: String(error?.stack ?? error) });
    await scenario({ io, options, ...one }, checks).catch(failed);
    return checks;
  }),
);
const named = cases.map(({ name }, index) => [name, results[index]]);
process.stdout.write(JSON.stringify(Object.fromEntries(named)), () => process.exit(0));
