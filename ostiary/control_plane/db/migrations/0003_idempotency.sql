-- Answers of POST calls by `Idempotency-Key`, for a day. Guarantees: one row per caller and key, written in the transaction
-- of the change it answers for; a row that others can see has its answer. No secret is in `answer`.

CREATE TABLE idempotency_keys (
    principal        text NOT NULL,
    key              text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    request_sha256   bytea NOT NULL CHECK (length(request_sha256) = 32),
    status           integer,
    answer           jsonb,
    secret_left_out  boolean NOT NULL DEFAULT false,
    expires_at       timestamptz NOT NULL DEFAULT now() + interval '24 hours',
    PRIMARY KEY (principal, key)
);

CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);
