// Calls an API behind Ostiary with a request signed by the scheme `hmac`. Needs Node.js 18 or later, and nothing else.
//
//     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... node sign.mjs GET http://127.0.0.1:8080/v1/clients
//     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... node sign.mjs POST http://127.0.0.1:8080/v1/clients '{"name": "Ada"}'

import { createHash, createHmac, randomBytes } from "node:crypto";
import { request as requestHttp } from "node:http";
import { request as requestHttps } from "node:https";

/** The headers that sign a request. `target` is path and ?query exactly as sent; `body` a Buffer exactly as sent. */
export function sign(keyId, secret, method, target, body) {
  const timestamp = String(Math.floor(Date.now() / 1000)); // seconds, not milliseconds
  const nonce = randomBytes(16).toString("base64url");
  const bodySha256 = createHash("sha256").update(body).digest("hex");
  const text = [method, target, timestamp, nonce, bodySha256].join("\n");
  const signature = createHmac("sha256", secret).update(text).digest("hex");
  return { "X-API-Key": `${keyId}:${signature}`, "X-Timestamp": timestamp, "X-Nonce": nonce };
}

export function call(keyId, secret, method, url, body = Buffer.alloc(0)) {
  const parts = new URL(url); // writes the path as it will be sent: what is signed is taken from it, not from `url`
  const target = parts.pathname + parts.search;
  const headers = sign(keyId, secret, method, target, body);
  if (body.length) {
    headers["Content-Type"] = "application/json";
    headers["Content-Length"] = body.length;
  }
  const request = parts.protocol === "https:" ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const options = { hostname: parts.hostname.replace(/^\[|\]$/g, ""), port: parts.port, path: target, method, headers };
    const sent = request(options, (answer) => {
      const pieces = [];
      answer.on("data", (piece) => pieces.push(piece));
      answer.on("end", () => resolve([answer.statusCode, Buffer.concat(pieces).toString()]));
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

const [method, url, body = ""] = process.argv.slice(2);
const [status, text] = await call(process.env.OSTIARY_KEY_ID, process.env.OSTIARY_SECRET, method, url, Buffer.from(body));
console.log(status, text);
process.exitCode = status < 300 ? 0 : 1;
