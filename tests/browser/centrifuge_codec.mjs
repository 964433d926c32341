// The codecs of npm's `centrifuge`, which it keeps to itself: reads cases from standard input, writes what the
// library makes of them. Its module is loaded with one line more, which lets the codecs out.
//
//   {"commands": [object], "emulation": object, "replies": [base64], "json": [text]}
//   → {"commands": base64, "emulation": base64, "replies": [[object]], "json": [[object]]}; bytes are {"base64"}

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import Module from "node:module";
import { dirname } from "node:path";

const require = createRequire(import.meta.url);

function opened(name, line) {
  const path = require.resolve(name);
  const module = new Module(path);
  module.filename = path;
  module.paths = Module._nodeModulePaths(dirname(path));
  module._compile(readFileSync(path, "utf8") + "\n" + line, path);
  return module.exports;
}

const { Centrifuge, ProtobufCodec } = opened(
  "centrifuge/build/protobuf",
  "exports.ProtobufCodec = ProtobufCodec;",
);
const { JsonCodec } = opened("centrifuge", "exports.JsonCodec = JsonCodec;");

const plain = (value) =>
  JSON.parse(
    JSON.stringify(value, (key, inner) => {
      if (inner && inner.type === "Buffer") return { base64: Buffer.from(inner.data).toString("base64") };
      if (inner instanceof Uint8Array) return { base64: Buffer.from(inner).toString("base64") };
      return inner;
    }),
  );

const bytes = (value) =>
  JSON.parse(JSON.stringify(value), (key, inner) =>
    inner && typeof inner === "object" && typeof inner.base64 === "string"
      ? new Uint8Array(Buffer.from(inner.base64, "base64"))
      : inner,
  );

const given = JSON.parse(readFileSync(0, "utf8"));
const protobuf = new ProtobufCodec();
const json = new JsonCodec();
if (!Centrifuge) throw new Error("no client in the module");

const buffer = (text) => new Uint8Array(Buffer.from(text, "base64"));
console.log(
  JSON.stringify({
    commands: Buffer.from(protobuf.encodeCommands(given.commands.map(bytes))).toString("base64"),
    emulation: Buffer.from(protobuf.encodeEmulationRequest(bytes(given.emulation))).toString("base64"),
    replies: given.replies.map((text) => plain(protobuf.decodeReplies(buffer(text)))),
    json: given.json.map((text) => json.decodeReplies(text)),
  }),
);
