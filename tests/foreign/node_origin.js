// Answers each request with what it was: X-Saw has a digest of method, target and body, the body the headers.
"use strict";
const { createHash } = require("node:crypto");
const { createServer } = require("node:http");

let number = 0;
createServer({ maxHeaderSize: 1 << 17 }, (request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    const digest = createHash("sha256").update(`${request.method} ${request.url}\n`).update(Buffer.concat(pieces));
    const headers = [];
    for (let at = 0; at < request.rawHeaders.length; at += 2) {
      headers.push([request.rawHeaders[at].toLowerCase(), request.rawHeaders[at + 1]]);
    }
    const body = Buffer.from(JSON.stringify(headers));
    number += 1;
    response.writeHead(200, { "X-Number": number, "X-Saw": digest.digest("hex"), "Content-Length": body.length });
    response.end(body);
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
