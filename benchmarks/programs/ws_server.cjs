// Rooms on `cat` with Node's `ws`. `node ws_server.cjs PORT [CERTIFICATE KEY]`
const { spawn } = require("node:child_process");
const { readFileSync } = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const readline = require("node:readline");
const { WebSocketServer } = require("ws");

const rooms = new Map();

function openRoom(name) {
  const process = spawn("cat", { stdio: ["pipe", "pipe", "inherit"] });
  const room = { process, clients: new Set() };
  readline.createInterface({ input: process.stdout, crlfDelay: Infinity }).on("line", (line) => {
    for (const client of room.clients) client.send(line);
  });
  rooms.set(name, room);
  return room;
}

const [port, certificate, key] = process.argv.slice(2);
const listener = certificate ? https.createServer({ cert: readFileSync(certificate), key: readFileSync(key) }) : http.createServer();
const server = new WebSocketServer({ server: listener, perMessageDeflate: false });
listener.listen({ host: "127.0.0.1", port: Number(port), backlog: 4096 });
server.on("connection", (socket, request) => {
  const room = rooms.get(request.url) ?? openRoom(request.url);
  room.clients.add(socket);
  socket.on("message", (message) => room.process.stdin.write(message + "\n"));
  socket.on("error", () => {});
  socket.on("close", () => {
    room.clients.delete(socket);
    if (room.clients.size === 0 && rooms.get(request.url) === room) {
      rooms.delete(request.url);
      room.process.stdin.end();
    }
  });
});
