-- The generations of a key: which secret is its present one, which was before and until when, and when each was last used.
-- Guarantees: at most two secrets of a key are ever in force, the present one and the one before (`previous_...`, until
-- `previous_ends_at`); both are columns of the key's row, so that one look-up sees both as of one moment, one revision and one
-- announcement tell of every change, and a gateway of before this migration knows the present secret. A generation that was
-- ended early has no secret left here. What is found by the hash of a secret is one key: no two rows, and no two columns that
-- are in force, can have the same 256 bits of chance.

ALTER TABLE api_keys
    ADD COLUMN generation                  integer NOT NULL DEFAULT 1 CHECK (generation >= 1),
    ADD COLUMN secret_created_at           timestamptz,  -- NULL: with the key
    ADD COLUMN previous_secret_sha256      bytea CHECK (length(previous_secret_sha256) = 32),
    ADD COLUMN previous_secret_sealed      bytea,
    ADD COLUMN previous_data_key_wrapped   bytea,
    ADD COLUMN previous_secret_hint        text CHECK (length(previous_secret_hint) = 4),
    ADD COLUMN previous_secret_created_at  timestamptz,
    ADD COLUMN previous_ends_at            timestamptz,
    ADD CONSTRAINT api_keys_previous_is_whole CHECK (
        num_nonnulls(previous_secret_hint, previous_secret_created_at, previous_ends_at) IN (0, 3)
        AND num_nonnulls(previous_secret_sha256, previous_secret_sealed, previous_data_key_wrapped) IN (0, 3)
        AND (previous_secret_sha256 IS NULL OR previous_ends_at IS NOT NULL)
        AND (previous_ends_at IS NULL OR generation > 1)
    );

-- Few keys are being rotated at any moment, so this index stays small.
CREATE UNIQUE INDEX api_keys_by_previous_secret ON api_keys (previous_secret_sha256)
    WHERE previous_secret_sha256 IS NOT NULL;

-- NULL: nobody's call, or metered by a gateway of before this migration.
ALTER TABLE usage_events ADD COLUMN key_generation integer;

-- One row for each generation that was ever used, of keys in the file too; those older than the one before are forgotten at
-- the next rotation. Room for updates in place: a row is written again and again.
CREATE TABLE key_uses (
    key_id                text COLLATE "C" NOT NULL,
    generation            integer NOT NULL,
    last_used_at          timestamptz NOT NULL,
    last_used_ip          inet,                   -- as it stands in usage_events
    last_used_user_agent  text,
    PRIMARY KEY (key_id, generation)
) WITH (fillfactor = 50);

-- Guarantees: after a statement that inserts into usage_events every generation in it has its latest use, whatever order
-- segments arrive in and however many shippers write at once: a later use is never replaced by an earlier one, and rows are
-- taken in one order by everyone. One write for each generation in a segment, not for each call. A clock that is ahead can't
-- claim a use in the future, which would hide all uses until then. SECURITY DEFINER: the gateway's role needs no right here.
CREATE FUNCTION note_key_uses() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO key_uses AS known (key_id, generation, last_used_at, last_used_ip, last_used_user_agent)
    SELECT DISTINCT ON (key_id, key_generation) key_id, key_generation, least(occurred_at, now()), ip, user_agent
    FROM inserted
    WHERE key_id IS NOT NULL AND key_generation IS NOT NULL
    ORDER BY key_id, key_generation, occurred_at DESC
    ON CONFLICT (key_id, generation) DO UPDATE SET
        last_used_at = excluded.last_used_at,
        last_used_ip = excluded.last_used_ip,
        last_used_user_agent = excluded.last_used_user_agent
        WHERE excluded.last_used_at > known.last_used_at;
    RETURN NULL;
END $$;

CREATE TRIGGER usage_events_note_key_uses AFTER INSERT ON usage_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION note_key_uses();
