#!/bin/sh
# Calls an API behind Ostiary with a request signed by the scheme `hmac`. Needs curl and openssl.
#
#     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... sh sign.sh GET http://127.0.0.1:8080/v1/clients
#     OSTIARY_KEY_ID=ak_... OSTIARY_SECRET=sk_... sh sign.sh POST http://127.0.0.1:8080/v1/clients '{"name": "Ada"}'
#
# openssl is given the secret as an argument, which every user of the machine can see while it runs; `ostiary sign --curl`
# does the same and shows nobody.
set -eu
method=$1 url=$2 body=${3:-}

after_scheme=${url#*://}
target=${after_scheme#"${after_scheme%%[/?]*}"} # path and ?query as written: so curl sends them with -g and --path-as-is
target=/${target#/}
timestamp=$(date +%s)
nonce=$(openssl rand -hex 16)
body_sha256=$(printf '%s' "$body" | openssl dgst -sha256 -r | cut -d' ' -f1)
signature=$(printf '%s\n%s\n%s\n%s\n%s' "$method" "$target" "$timestamp" "$nonce" "$body_sha256" |
    openssl dgst -sha256 -hmac "$OSTIARY_SECRET" -r | cut -d' ' -f1)

set -- -sS -g --path-as-is -X "$method" -w '\n%{http_code}' \
    -H "X-API-Key: $OSTIARY_KEY_ID:$signature" -H "X-Timestamp: $timestamp" -H "X-Nonce: $nonce"
[ -z "$body" ] || set -- "$@" -H 'Content-Type: application/json' --data-binary "$body"
answer=$(curl "$@" "$url")
status=${answer##*
}
printf '%s %s\n' "$status" "${answer%
*}"
[ "$status" -lt 300 ]
