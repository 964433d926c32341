// HTTP streaming: each reply is a line of an answer to a POST that does not end.

import { Lines } from "../protocol.js";
import { EmulatedLink } from "./emulated.js";

const PATH = "/connection/http_stream";

export class StreamLink extends EmulatedLink {
  static transport = "http_stream";

  static isAvailable(site) {
    return site.canStream;
  }

  open(commands) {
    this.follow(PATH, "application/json", commands, new Lines());
  }
}
