"""Calls an API behind Ostiary with a request signed by the scheme `hmac`. Needs Python 3.8 or later, and nothing else.

OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... python sign.py GET http://127.0.0.1:8080/v1/clients
OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... python sign.py POST http://127.0.0.1:8080/v1/clients '{"name": "Ada"}'
"""

import hashlib
import hmac
import http.client
import os
import secrets
import sys
import time
from urllib.parse import urlsplit


def sign(key_id, secret, method, target, body):
    """The headers that sign a request. `target` is path and ?query exactly as sent; `body` the bytes exactly as sent."""
    timestamp, nonce = str(int(time.time())), secrets.token_urlsafe(16)
    text = "\n".join((method, target, timestamp, nonce, hashlib.sha256(body).hexdigest()))
    signature = hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    return {"X-API-Key": f"{key_id}:{signature}", "X-Timestamp": timestamp, "X-Nonce": nonce}


def call(key_id, secret, method, url, body=b""):
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.netloc, timeout=30)
    headers = sign(key_id, secret, method, target, body)
    if body:
        headers["Content-Type"] = "application/json"
    # http.client sends method, target and body as they are; libraries that take a URL may write it anew (see README.md).
    connection.request(method, target, body=body or None, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


if __name__ == "__main__":
    method, url, body = sys.argv[1], sys.argv[2], "".join(sys.argv[3:4]).encode()
    status, text = call(os.environ["OSTIARY_KEY_ID"], os.environ["OSTIARY_SECRET"], method, url, body)
    print(status, text)
    sys.exit(status >= 300)
