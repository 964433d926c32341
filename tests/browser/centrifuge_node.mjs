// npm's `centrifuge` in Node, over every transport that it has, side by side.
//
//     node centrifuge_node.mjs '{"secret", "cases": [{"transport", "protocol", "base", "inner"}]}'
//
// `inner` is the transport of SockJS, where that is the transport. Prints {"transport protocol": [checks]}, or
// {"inner": [checks]}; see centrifuge_scenario.mjs.

import { Centrifuge as JsonCentrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import { EventSource } from "eventsource";
import SockJS from "sockjs-client";
import WebSocket from "ws";

import { scenario } from "./centrifuge_scenario.mjs";

const { secret, cases } = JSON.parse(process.argv[2]);
// Node 20 has neither of its own.
const options = { websocket: WebSocket, eventsource: EventSource, fetch, readableStream: ReadableStream };
const results = await Promise.all(
  cases.map(async ({ transport, protocol, base, inner }) => {
    const bySockJs = inner && { sockjs: SockJS, sockjsOptions: { transports: [inner], timeout: 10_000 } };
    const Centrifuge = protocol === "protobuf" ? ProtobufCentrifuge : JsonCentrifuge;
    try {
      const path = inner && "/sockjs";
      const all = { ...options, ...bySockJs };
      return await scenario({ Centrifuge, base, transport, protocol, secret, options: all, inner, path });
    } catch (error) {
      return [{ name: "ran to its end", ok: false, detail: String(error?.stack ?? JSON.stringify(error)) }];
    }
  }),
);
const named = cases.map(({ transport, protocol, inner }, index) => [inner ?? `${transport} ${protocol}`, results[index]]);
process.stdout.write(JSON.stringify(Object.fromEntries(named)), () => process.exit(0));
