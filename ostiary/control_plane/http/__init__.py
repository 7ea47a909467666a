"""The transport kit: what every operation of the API shares, and no word about organizations or keys.

operations     an operation, declared: what comes in, what goes out, who does it
fields paging  what requests and answers are made of
edge           authorization, request ids, security headers, the log line
reading        HTTP request to checked values;  strict_json  bodies
idempotency    the same POST twice is done once
dispatch       serves operations
problems       every refusal, and how it looks
openapi documentation  describe operations
listener       the listening side
"""
