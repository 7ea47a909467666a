-- The audit log: every change of the API, and refused attempts. Guarantees: rows are added at the end and never changed or
-- taken away; `number` has no gaps, and its order is the order in which the changes were committed; the hash of a row covers the
-- row and the hash of the one before it, so that what was altered, taken out or put in shows (`ostiary audit verify`). Rows are
-- written by audit_append alone, in the transaction of the change that they tell of.

CREATE TABLE audit_log (
    number           bigint PRIMARY KEY CHECK (number > 0),
    occurred_at      timestamptz NOT NULL,
    actor            text COLLATE "C" NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),    -- the principal; `unknown`
    actor_name       text NOT NULL,
    address          text COLLATE "C",            -- the peer's; NULL if it had gone
    request_id       text COLLATE "C" NOT NULL,
    operation        text COLLATE "C" NOT NULL,   -- its operationId in the OpenAPI document
    resource_type    text COLLATE "C" NOT NULL,
    resource_id      text COLLATE "C",            -- NULL: refused before there was one
    organization_id  uuid,                        -- whose people see the row; NULL: the platform's own
    outcome          text COLLATE "C" NOT NULL CHECK (outcome IN ('done', 'refused')),
    code             text COLLATE "C" CHECK ((code IS NULL) = (outcome = 'done')),
    before           jsonb CHECK (jsonb_typeof(before) = 'object'),  -- NULL: it was not there
    after            jsonb CHECK (jsonb_typeof(after) = 'object'),   -- NULL: it is no longer there
    previous_hash    bytea NOT NULL CHECK (length(previous_hash) = 32),
    hash             bytea NOT NULL CHECK (length(hash) = 32)
);

-- Newest first, of one organization, one actor, one thing, one operation; a span of time.
CREATE INDEX audit_log_by_organization ON audit_log (organization_id, number DESC);
CREATE INDEX audit_log_by_actor ON audit_log (actor, number DESC);
CREATE INDEX audit_log_by_resource ON audit_log (resource_type, resource_id, number DESC);
CREATE INDEX audit_log_by_operation ON audit_log (operation, number DESC);
CREATE INDEX audit_log_by_time ON audit_log (occurred_at);

-- Rows that wait for the commit of their transaction. Nobody ever sees one here: what commits has been moved.
CREATE UNLOGGED TABLE audit_pending (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor            text NOT NULL,
    actor_name       text NOT NULL,
    address          text,
    request_id       text NOT NULL,
    operation        text NOT NULL,
    resource_type    text NOT NULL,
    resource_id      text,
    organization_id  uuid,
    outcome          text NOT NULL,
    code             text,
    before           jsonb,
    after            jsonb,
    content_sha256   bytea NOT NULL CHECK (length(content_sha256) = 32)
);

-- Guarantees that the row is in the log exactly when the transaction commits. SECURITY DEFINER: the service's role may call this,
-- and may write into neither table by itself. `content_sha256` is made by the caller: core.audit_chain.
CREATE FUNCTION audit_append(
    actor text, actor_name text, address text, request_id text, operation text, resource_type text, resource_id text,
    organization_id uuid, outcome text, code text, before jsonb, after jsonb, content_sha256 bytea
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'audit_append needs READ COMMITTED: another isolation level would not see the last row';
    END IF;
    INSERT INTO audit_pending (actor, actor_name, address, request_id, operation, resource_type, resource_id, organization_id,
                               outcome, code, before, after, content_sha256)
    VALUES (actor, actor_name, address, request_id, operation, resource_type, resource_id, organization_id,
            outcome, code, before, after, content_sha256);
END $$;
REVOKE EXECUTE ON FUNCTION audit_append FROM PUBLIC;

-- Guarantees: the next number and the hash of the row before it, of what is committed. It runs as part of COMMIT, so the lock is
-- held for one look-up, one insert and the write of the commit, and no client can be slow or stop in between; it ends when the
-- row can be seen, so that two rows never follow the same one.
-- hash = SHA-256(previous_hash, number as 8 bytes, occurred_at in microseconds since 1970 as 8 bytes, content_sha256), numbers
-- with the highest byte first.
CREATE FUNCTION audit_chain() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    last_number  bigint;
    last_hash    bytea;
    moment       timestamptz;
BEGIN
    DELETE FROM audit_pending WHERE id = NEW.id;
    PERFORM pg_advisory_xact_lock(8030890556487006580);  -- the first 8 bytes of "ostiaryt", as db.schema has "ostiarym"
    SELECT number, hash INTO last_number, last_hash FROM audit_log ORDER BY number DESC LIMIT 1;
    IF last_number IS NULL THEN
        last_number := 0;
        last_hash := decode(repeat('00', 32), 'hex');
    END IF;
    moment := clock_timestamp();
    INSERT INTO audit_log VALUES (
        last_number + 1, moment, NEW.actor, NEW.actor_name, NEW.address, NEW.request_id, NEW.operation, NEW.resource_type,
        NEW.resource_id, NEW.organization_id, NEW.outcome, NEW.code, NEW.before, NEW.after, last_hash,
        sha256(last_hash || int8send(last_number + 1) || int8send((extract(epoch FROM moment) * 1000000)::bigint)
               || NEW.content_sha256)
    );
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER audit_pending_chain AFTER INSERT ON audit_pending
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit_chain();

-- The second line, for the owner of the table and for superusers, whom no missing right stops: it has to be taken away on
-- purpose. ALWAYS: also in a session that replays a replication stream.
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_log is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;

-- Guarantees that a function which runs with its owner's rights finds the tables and functions of this schema and no others: by
-- default a caller's temporary table of the same name comes first, and a trigger on that one would run as the owner.
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT oid::regprocedure AS name FROM pg_proc
                 WHERE prosecdef AND pronamespace = current_schema()::regnamespace AND pg_has_role(proowner, 'USAGE') LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', found.name, current_schema());
    END LOOP;
END $$;
