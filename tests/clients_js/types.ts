// A program that uses every declaration; it is checked, and never run. What must be refused is marked.

import {
  CLIENT, Everywire, EverywireError, TRANSPORTS, Unauthorized, VERSION, isTerminal,
  type Attempt, type Channel, type Gap, type Options, type Position, type Transport,
} from "../../clients/js/everywire.js";

interface Message {
  text: string;
}

const options: Options = {
  getToken: async () => "token",
  getTicket: () => "ticket",
  data: { room: [1, null, true] },
  headers: { "X-API-Key": "k" },
  transports: ["websocket", "long-poll"],
  shared: "user-1",
  storage: null,
  climbMs: 0,
};
const wire = new Everywire(new URL("https://example.com"), options);
const chat: Channel<Message> = wire.channel<Message>("chat", { joinLeave: true, since: { epoch: "", offset: 0 } });

const off: () => void = chat.on("publication", ({ data, offset, info, event }) => {
  const text: string = data.text;
  const at: number = offset;
  console.log(text, at, info?.user, event?.length);
});
chat.once("subscribed", ({ outcome, position }) => {
  const where: Position | null = position;
  if (outcome === "trimmed" || outcome === "reset") console.log(where);
  // @ts-expect-error there is no such outcome
  if (outcome === "lost") console.log();
});
chat.on("gap", (gap: Gap) => console.log(gap.from, gap.to, gap.reason));
chat.off("join").off("leave");
wire.on("attempt", (attempt: Attempt) => console.log(attempt.transport, attempt.outcome, attempt.reason));
wire.on("disconnected", ({ willReconnect, retryMs }) => willReconnect && console.log(retryMs));
// @ts-expect-error there is no such event
wire.on("reconnected", () => {});
// @ts-expect-error there is no such transport
wire.reconnect("pigeon");
// @ts-expect-error functions are no JSON
chat.publish(() => {});

export async function use(): Promise<void> {
  await wire.connect();
  await chat.subscribe();
  await chat.publish({ text: "hello" });
  const { clients, users } = await chat.presenceStats();
  const who = Object.values(await chat.presence()).map(({ user }) => user);
  const { publications, epoch } = await chat.history({ limit: 10, reverse: true });
  const first: Message = publications[0]!.data;
  const sum = await wire.rpc<number>("add", [1, 2]);
  await wire.send("hello").catch((error: EverywireError) => error.code === CLIENT.TIMEOUT && error.wasSent);
  const transport: Transport | "" = wire.transport;
  console.log(clients + users, who, epoch, first, sum, transport, TRANSPORTS.length, VERSION, isTerminal(3500));
  off();
  throw new Unauthorized();
}
