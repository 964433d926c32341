// npm's `centrifuge` in Node, over every transport that it has, side by side.
//
//     node centrifuge_node.mjs '{"secret", "cases": [{"transport", "protocol", "base"}]}'
//
// Prints {"transport protocol": [checks]}; see centrifuge_scenario.mjs.

import { Centrifuge as JsonCentrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { EventSource } from "eventsource";
import WebSocket from "ws";

import { scenario } from "./centrifuge_scenario.mjs";

const { secret, cases } = JSON.parse(process.argv[2]);
// Node 20 has neither of its own.
const options = { websocket: WebSocket, eventsource: EventSource, fetch, readableStream: ReadableStream };
const results = await Promise.all(
  cases.map(async ({ transport, protocol, base }) => {
    const Centrifuge = protocol === "protobuf" ? ProtobufCentrifuge : JsonCentrifuge;
    try {
      return await scenario({ Centrifuge, base, transport, protocol, secret, options });
    } catch (error) {
      return [{ name: "ran to its end", ok: false, detail: String(error?.stack ?? JSON.stringify(error)) }];
    }
  }),
);
const named = cases.map(({ transport, protocol }, index) => [`${transport} ${protocol}`, results[index]]);
process.stdout.write(JSON.stringify(Object.fromEntries(named)), () => process.exit(0));
