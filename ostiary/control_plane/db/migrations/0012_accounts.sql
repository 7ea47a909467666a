-- Users and what makes them known, their roles, and the platform's tokens. Guarantees: no secret stands here in the open.
-- Passwords are argon2id; everything else that lets somebody in is 256 bits of chance and kept as its SHA-256 alone; the private
-- keys that sign access tokens are sealed as signing secrets are. What is revoked is gone, or says so: roles, sessions and tokens
-- are read with every call.

-- `email` is in lower case: one address is one user. Without `password_hash` a user signs in by an outside issuer alone.
CREATE TABLE users (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email          text NOT NULL UNIQUE CHECK (length(email) BETWEEN 3 AND 254 AND email = lower(email)),
    name           text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    password_hash  text,
    platform_role  text CHECK (platform_role IN ('operator', 'auditor')),
    disabled_at    timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX users_by_age ON users (created_at DESC, id DESC);

-- Who an outside issuer's subject is: found by the address once, by the subject from then on.
CREATE TABLE user_identities (
    issuer      text NOT NULL,
    subject     text NOT NULL,
    user_id     uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
);

CREATE TABLE memberships (
    organization_id  uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    user_id          uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role             text NOT NULL CHECK (role IN ('viewer', 'developer', 'admin', 'owner')),
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, user_id)
);
CREATE INDEX memberships_by_user ON memberships (user_id);
CREATE INDEX memberships_by_age ON memberships (organization_id, created_at DESC, user_id DESC);

-- Into an organization with a role in it, or into the platform, with a role over it or none. Good once.
CREATE TABLE invitations (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email            text NOT NULL CHECK (length(email) BETWEEN 3 AND 254 AND email = lower(email)),
    organization_id  uuid REFERENCES organizations (id) ON DELETE CASCADE,
    role             text CHECK (role IN ('viewer', 'developer', 'admin', 'owner')),
    platform_role    text CHECK (platform_role IN ('operator', 'auditor')),
    token_sha256     bytea NOT NULL UNIQUE CHECK (length(token_sha256) = 32),
    invited_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz NOT NULL,
    accepted_at      timestamptz,
    accepted_by      uuid REFERENCES users (id) ON DELETE SET NULL,
    revoked_at       timestamptz,
    CONSTRAINT invitations_role_is_of_its_kind CHECK (
        (organization_id IS NULL AND role IS NULL) OR (organization_id IS NOT NULL AND role IS NOT NULL AND platform_role IS NULL)
    )
);
CREATE INDEX invitations_by_organization ON invitations (organization_id, created_at DESC, id DESC);
CREATE INDEX invitations_by_age ON invitations (created_at DESC, id DESC);
CREATE INDEX invitations_by_email ON invitations (email);

-- A signed-in browser (`secret_sha256` is of its cookie) or program (of its present refresh token). A session that is over
-- may be gone or not; one that was revoked is gone.
CREATE TABLE sessions (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id        uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    kind           text NOT NULL CHECK (kind IN ('browser', 'program')),
    secret_sha256  bytea NOT NULL UNIQUE CHECK (length(secret_sha256) = 32),
    created_at     timestamptz NOT NULL DEFAULT now(),
    last_used_at   timestamptz NOT NULL DEFAULT now(),
    idle_ends_at   timestamptz NOT NULL,
    ends_at        timestamptz NOT NULL,
    address        text CHECK (length(address) <= 64),
    user_agent     text CHECK (length(user_agent) <= 200)
);
CREATE INDEX sessions_by_user ON sessions (user_id, created_at DESC, id DESC);
CREATE INDEX sessions_by_end ON sessions (ends_at);

-- Refresh tokens that were used: shown again, they were copied, and their session ends (RFC 9700 §4.14.2).
CREATE TABLE used_refresh_tokens (
    secret_sha256  bytea PRIMARY KEY CHECK (length(secret_sha256) = 32),
    session_id     uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE INDEX used_refresh_tokens_by_session ON used_refresh_tokens (session_id);

-- Failed attempts to sign in, by the hash of whose they are: an address of e-mail, one of the network, both together.
CREATE TABLE sign_in_attempts (
    subject_sha256  bytea PRIMARY KEY CHECK (length(subject_sha256) = 32),
    failures        integer NOT NULL,
    ends_at         timestamptz NOT NULL
);
CREATE INDEX sign_in_attempts_by_end ON sign_in_attempts (ends_at);

-- What signs access tokens (Ed25519). A private key that can't be opened any more costs nothing: another is made.
CREATE TABLE token_signing_keys (
    kid               text PRIMARY KEY,
    public_key        bytea NOT NULL CHECK (length(public_key) = 32),
    private_sealed    bytea NOT NULL,
    data_key_wrapped  bytea NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now()
);

-- Of programs that work for the platform, or for one organization: a role over all, or one in it.
CREATE TABLE platform_tokens (
    id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name             text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    token_sha256     bytea NOT NULL UNIQUE CHECK (length(token_sha256) = 32),
    token_hint       text NOT NULL CHECK (length(token_hint) = 4),
    platform_role    text CHECK (platform_role IN ('operator', 'auditor')),
    organization_id  uuid REFERENCES organizations (id) ON DELETE CASCADE,
    role             text CHECK (role IN ('viewer', 'developer', 'admin', 'owner')),
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    expires_at       timestamptz NOT NULL,
    last_used_at     timestamptz,
    revoked_at       timestamptz,
    CONSTRAINT platform_tokens_role_is_of_its_kind CHECK (
        (platform_role IS NOT NULL AND organization_id IS NULL AND role IS NULL)
        OR (platform_role IS NULL AND organization_id IS NOT NULL AND role IS NOT NULL)
    )
);
CREATE INDEX platform_tokens_by_age ON platform_tokens (created_at DESC, id DESC);
