// The JSON form of the Centrifuge client protocol (version 2): commands to text, text to replies.
//
// One JSON object is one command or reply; a message holds one or more, joined by a newline. The pieces in which an
// answer arrives are cut anywhere: `Lines` and `Events` put them together again.

import { Ending } from "./errors.js";

/** A line or event longer than this is no reply of ours. */
const MAX_CHARACTERS = 16 * 1024 * 1024;

export function encode(commands) {
  return commands.map((command) => JSON.stringify(command)).join("\n");
}

/** A message holds no more than this, unless one command alone is larger; servers bound both. */
const MAX_BATCH_COMMANDS = 100;
const MAX_BATCH_CHARACTERS = 48 * 1024;

/** Take as many texts of commands off the front as one message holds; return them joined. */
export function takeBatch(texts) {
  let count = 0;
  let characters = 0;
  while (count < texts.length && count < MAX_BATCH_COMMANDS) {
    characters += texts[count].length + 1;
    if (count && characters > MAX_BATCH_CHARACTERS) break;
    count += 1;
  }
  return texts.splice(0, count).join("\n");
}

/** Read the replies of a text. Throws an `Ending` when it is not the protocol's. */
export function decode(text) {
  try {
    return text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  } catch {
    throw new Ending("blocked", `what came is not the protocol's: ${text.slice(0, 80)}`);
  }
}

/** Cuts a stream of text into lines. */
export class Lines {
  #rest = "";

  /** Take a piece; return the texts that are complete. */
  take(piece) {
    const lines = (this.#rest + piece).split("\n");
    this.#rest = lines.pop();
    if (this.#rest.length > MAX_CHARACTERS) throw new Ending("blocked", "a line without an end came");
    return lines;
  }
}

/** Reads server-sent events (HTML standard §9.2.6): the data of each. Names and ids play no part here. */
export class Events {
  #lines = new Lines();
  #data = [];

  /** Take a piece; return the data of the events that are complete. */
  take(piece) {
    const complete = [];
    for (const raw of this.#lines.take(piece)) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line.startsWith("data:")) this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && this.#data.length) complete.push(this.#data.splice(0).join("\n"));
    }
    return complete;
  }
}

/**
 * Make what listeners get of the protocol's publication: the event's name stands by itself, and data that is no
 * JSON is bytes.
 */
export function readPublication(channel, { data, offset = 0, info, tags, time }) {
  const { event, ...rest } = tags ?? {};
  const publication = { channel, offset, data, ...readData(data) };
  if (event !== undefined) publication.event = event;
  if (Object.keys(rest).length) publication.tags = rest;
  if (info) publication.info = readInfo(info);
  if (time) publication.time = time;
  return publication;
}

function readData(data) {
  const isBinary = data !== null && typeof data === "object" && Object.keys(data).length === 2
    && typeof data.data_base64 === "string" && typeof data.content_type === "string";
  if (!isBinary) return {};
  try {
    const bytes = Uint8Array.from(atob(data.data_base64), (character) => character.charCodeAt(0));
    return { data: bytes, contentType: data.content_type };
  } catch {
    return {}; // An application's own object that happens to have these two members.
  }
}

/** Who a client is. */
export function readInfo({ user = "", client = "", conn_info: connInfo, chan_info: channelInfo }) {
  return {
    user,
    client,
    ...(connInfo !== undefined && { connInfo }),
    ...(channelInfo !== undefined && { channelInfo }),
  };
}
