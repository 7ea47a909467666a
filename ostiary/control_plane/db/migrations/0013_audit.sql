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

-- Guarantees: the next number and the hash of the row before it, of what is committed: the lock is held until the transaction
-- ends, so whoever comes next sees this row, and two rows never follow the same one. It must be the last statement of its
-- transaction, and a process that stops between it and the commit holds the others up for two seconds, not longer.
-- hash = SHA-256(previous_hash, number as 8 bytes, occurred_at in microseconds since 1970 as 8 bytes, content_sha256), numbers
-- with the highest byte first; content_sha256 is made by the caller: core.audit_chain.
-- SECURITY DEFINER: the service's role may call this, and may not write into the table by itself.
CREATE FUNCTION audit_append(
    actor text, actor_name text, address text, request_id text, operation text, resource_type text, resource_id text,
    organization_id uuid, outcome text, code text, before jsonb, after jsonb, content_sha256 bytea
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    last_number  bigint;
    last_hash    bytea;
    moment       timestamptz;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'audit_append needs READ COMMITTED: another isolation level would not see the last row';
    END IF;
    PERFORM set_config('idle_in_transaction_session_timeout', '2s', true);
    PERFORM pg_advisory_xact_lock(8030890556487006580);  -- the first 8 bytes of "ostiaryt", as db.schema has "ostiarym"
    SELECT log.number, log.hash INTO last_number, last_hash FROM audit_log log ORDER BY log.number DESC LIMIT 1;
    IF last_number IS NULL THEN
        last_number := 0;
        last_hash := decode(repeat('00', 32), 'hex');
    END IF;
    moment := clock_timestamp();
    INSERT INTO audit_log VALUES (
        last_number + 1, moment, actor, actor_name, address, request_id, operation, resource_type, resource_id,
        organization_id, outcome, code, before, after, last_hash,
        sha256(last_hash || int8send(last_number + 1) || int8send((extract(epoch FROM moment) * 1000000)::bigint)
               || content_sha256)
    );
    RETURN last_number + 1;
END $$;
REVOKE EXECUTE ON FUNCTION audit_append FROM PUBLIC;

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
