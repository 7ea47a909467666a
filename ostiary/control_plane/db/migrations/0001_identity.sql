-- Organizations, apps and keys. Guarantees: a key belongs to one app; its revision rises with every change, and every
-- change is announced on the channel `ostiary_keys`, so that gateways forget what they knew of it.

CREATE TABLE organizations (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE apps (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id  uuid NOT NULL REFERENCES organizations (id),
    name             text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    description      text NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
    created_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name)
);

-- Lists are read newest first, from a position on: along these, and along `api_keys_by_app`.
CREATE INDEX organizations_by_age ON organizations (created_at DESC, id DESC);
CREATE INDEX apps_by_age ON apps (created_at DESC, id DESC);
CREATE INDEX apps_by_organization ON apps (organization_id, created_at DESC, id DESC);

CREATE SEQUENCE key_revisions;

-- A bearer secret is kept as its SHA-256 alone (it is 256 bits of chance, so no slow hash is needed). A signing secret must
-- be recoverable: `secret_sealed` is AES-256-GCM under a data key, `data_key_wrapped` is that key under the KEK, both
-- bound to the key's id. `secret_hint` is the last four characters, to tell keys apart.
CREATE TABLE api_keys (
    id                text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9_]{4,64}$'),
    app_id            uuid NOT NULL REFERENCES apps (id),
    name              text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    environment       text NOT NULL CHECK (environment IN ('live', 'test')),
    secret_sha256     bytea NOT NULL UNIQUE CHECK (length(secret_sha256) = 32),
    secret_sealed     bytea NOT NULL,
    data_key_wrapped  bytea NOT NULL,
    secret_hint       text NOT NULL CHECK (length(secret_hint) = 4),
    plan              text,
    scopes            text[] NOT NULL DEFAULT '{}',
    allowed_networks  cidr[] NOT NULL DEFAULT '{}',
    allowed_origins   text[] NOT NULL DEFAULT '{}',
    expires_at        timestamptz,
    revoked_at        timestamptz,
    revoked_reason    text CHECK (length(revoked_reason) <= 500),
    revision          bigint NOT NULL DEFAULT nextval('key_revisions'),
    created_at        timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX api_keys_by_app ON api_keys (app_id, created_at DESC, id DESC);
CREATE INDEX api_keys_by_revision ON api_keys (revision);

-- The announcement leaves with the transaction's commit: no gateway hears of a change that did not happen. The payload is
-- the key's id, never a secret.
CREATE FUNCTION announce_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('ostiary_keys', OLD.id);
        RETURN OLD;
    END IF;
    NEW.revision := nextval('key_revisions');
    PERFORM pg_notify('ostiary_keys', NEW.id);
    RETURN NEW;
END $$;

CREATE TRIGGER api_keys_announce BEFORE INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION announce_key_change();
