-- Limits of one key in place of its plan's. Guarantees: what is in force stands with the key, so that the change feed carries
-- it (the trigger on api_keys gives every change a revision and announces it); every change ever made is a row of
-- key_limit_changes, written in the transaction of the change, with who, when, why, and what was before.

ALTER TABLE api_keys ADD COLUMN limits jsonb CHECK (jsonb_typeof(limits) = 'object');

CREATE TABLE key_limit_changes (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id      text NOT NULL,               -- no foreign key: what was done to a key outlives it
    changed_at  timestamptz NOT NULL DEFAULT now(),
    changed_by  text NOT NULL CHECK (length(changed_by) BETWEEN 1 AND 200),
    reason      text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    before      jsonb,                       -- NULL: the plan's
    after       jsonb                        -- NULL: the plan's from now on
);

CREATE INDEX key_limit_changes_by_key ON key_limit_changes (key_id, id DESC);
