"""The key documents of issuers, for both planes: `fetch` gets one from where the configuration says. When to do so, and for
how long one holds, each plane decides by itself.

Nothing is imported here: aiohttp is 0.2 s of CPU, and only an issuer to fetch from needs it."""
