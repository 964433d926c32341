// A peer of the benchmark: Node's socket.io as its documentation begins with it, on the port of the command line.
// A second word, "recovery", turns its connection state recovery on, which ours has by default.
//
// "subscribe" joins a room and is acknowledged; what is posted to /publish goes to all in the room "bench".

import { createServer } from "node:http";
import { Server } from "socket.io";

const server = createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    io.to("bench").emit("message", JSON.parse(Buffer.concat(parts)));
    response.writeHead(204).end();
  });
});
const options = process.argv[3] === "recovery" ? { connectionStateRecovery: {} } : {};
const io = new Server(server, options);

io.on("connection", (socket) => {
  socket.on("subscribe", (room, acknowledge) => {
    socket.join(room);
    acknowledge();
  });
});

server.listen(Number(process.argv[2]), "127.0.0.1");
