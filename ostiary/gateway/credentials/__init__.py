"""The schemes: how a request proves its caller, one module each. `phases/authenticate.py` picks among them by what a request
carries.

    bearer.py           the secret itself
    hmac_signature.py   `hmac` and `hmac-body`: a signature in X-API-Key
    http_signature.py   `http-signature`: RFC 9421
    holding.py          the body, held back until its signature has verified
    jwt.py              a token of a configured issuer
    mtls.py             the client certificate of the connection
    refusal.py          how every one of them says no

A scheme is one coroutine `check(exchange, keys, …)`. It sets `scheme` before it refuses anything, and `known_key`
once the credential holds; one that signs also sets `nonce`, and holds the body. A refusal goes through `refuse`."""
