// npm's `sockjs-client` in Node: its transports side by side.
//
//     node sockjs_node.mjs '{"cases": [{"transport", "base", "name"}]}'
//
// Prints {name: [checks]}; see sockjs_scenario.mjs.

import SockJS from "sockjs-client";

import { scenario } from "./sockjs_scenario.mjs";

const { cases } = JSON.parse(process.argv[2]);
const results = await Promise.all(
  cases.map(async (one) => {
    const checks = [];
    const failed = (error) => checks.push({ name: "ran to its end", ok: false, detail: String(error?.stack ?? error) });
    await scenario({ SockJS, ...one }, checks).catch(failed);
    return checks;
  }),
);
const named = cases.map(({ name }, index) => [name, results[index]]);
process.stdout.write(JSON.stringify(Object.fromEntries(named)), () => process.exit(0));
