-- Published routes: every version ever applied, and what the gateways say of the one they run.
--
-- Guarantees: versions are numbered 1, 2, 3 … without a gap, in the order in which they were committed; what was applied stays
-- as it was for ever (no row is changed or deleted, not by the table's owner either, unless the trigger goes first); the highest
-- number is the one in force, so that a rollback is one more version and history is what happened. Each is announced on the
-- channel `ostiary_routes` when it commits.
--
-- A gateway's role needs SELECT on route_versions, and SELECT, INSERT, UPDATE and DELETE on gateway_nodes.

CREATE TABLE route_versions (
    number          bigint PRIMARY KEY CHECK (number >= 1),
    document        text NOT NULL CHECK (octet_length(document) <= 2097152),   -- as it was sent: comments, order, references
    sha256          text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),           -- of the document in UTF-8
    normal_form     jsonb NOT NULL CHECK (jsonb_typeof(normal_form) = 'object'),  -- the document as JSON, for questions in SQL
    author          text NOT NULL CHECK (length(author) BETWEEN 1 AND 200),
    note            text CHECK (length(note) BETWEEN 1 AND 500),
    rolled_back_to  bigint REFERENCES route_versions (number),                 -- the version whose document this one repeats
    created_at      timestamptz NOT NULL DEFAULT now(),
    CHECK (rolled_back_to < number)
);

CREATE FUNCTION refuse_route_version_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'versions of routes are never changed or deleted; apply another one';
END $$;

CREATE TRIGGER route_versions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON route_versions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_route_version_change();

CREATE FUNCTION announce_route_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('ostiary_routes', NEW.number::text);
    RETURN NULL;
END $$;

CREATE TRIGGER route_versions_announce AFTER INSERT ON route_versions
    FOR EACH ROW EXECUTE FUNCTION announce_route_version();

-- One row for each gateway that follows: it writes it every few seconds, removes it when it ends in order, and others remove
-- it when it has been silent for an hour.
CREATE TABLE gateway_nodes (
    node              text PRIMARY KEY CHECK (length(node) BETWEEN 1 AND 64),
    host              text NOT NULL CHECK (length(host) <= 255),
    ostiary           text NOT NULL CHECK (length(ostiary) <= 50),             -- its version of the program
    version           bigint,                                                  -- in force in all its workers; NULL: none
    sha256            text,                                                    -- of that version's document, as it runs it
    since             timestamptz NOT NULL DEFAULT now(),                      -- when it first said so
    refused_version   bigint,                                                  -- the newest it knows and can't take
    refused_problems  text[] NOT NULL DEFAULT '{}',
    seen_at           timestamptz NOT NULL DEFAULT now()
);
