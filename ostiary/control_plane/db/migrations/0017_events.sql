-- Events: what happened that others may want to hear of, for whoever delivers it. Guarantees: a row is there exactly when what it
-- tells of is, by the same transaction; `number` has no gaps, and its order is the order in which rows can be seen: who has read
-- up to a number never finds a lower one later. So `number > last` is all that a reader needs to keep. Rows are dropped after some
-- weeks (`ostiary usage retention`), from the oldest on; the last one stays, so that numbers go on from it.

CREATE TABLE event_outbox (
    number           bigint PRIMARY KEY CHECK (number > 0),
    occurred_at      timestamptz NOT NULL,                                     -- when it was committed
    kind             text COLLATE "C" NOT NULL CHECK (kind ~ '^[a-z_]{1,40}\.[a-z_]{1,40}$'),
    resource_type    text COLLATE "C" NOT NULL,
    resource_id      text COLLATE "C" NOT NULL,
    app_id           uuid,
    organization_id  uuid,                                                     -- whose people see it; NULL: the platform's own
    request_id       text COLLATE "C",                                         -- NULL: no call of the API made it
    payload          jsonb NOT NULL CHECK (jsonb_typeof(payload) = 'object')   -- no secrets
);

CREATE INDEX event_outbox_by_organization ON event_outbox (organization_id, number);
CREATE INDEX event_outbox_by_kind ON event_outbox (kind, number);
CREATE INDEX event_outbox_by_time ON event_outbox (occurred_at);

-- Rows that wait for the commit of their transaction. Nobody ever sees one here: what commits has been moved.
CREATE UNLOGGED TABLE event_pending (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind             text NOT NULL,
    resource_type    text NOT NULL,
    resource_id      text NOT NULL,
    app_id           uuid,
    organization_id  uuid,
    request_id       text,
    payload          jsonb NOT NULL
);

-- Guarantees that the event is told exactly when the transaction commits. Of a key the app is looked up now, while it is there.
-- SECURITY DEFINER: the service's role may call this, and may write into neither table by itself.
CREATE FUNCTION event_append(
    kind text, resource_type text, resource_id text, organization_id uuid, request_id text, payload jsonb
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    its_app uuid;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'event_append needs READ COMMITTED: another isolation level would not see the last row';
    END IF;
    IF resource_type = 'app' THEN
        its_app := resource_id::uuid;
    ELSIF resource_type IN ('key', 'key_limits') THEN
        SELECT k.app_id INTO its_app FROM api_keys k WHERE k.id = resource_id;
    END IF;
    INSERT INTO event_pending (kind, resource_type, resource_id, app_id, organization_id, request_id, payload)
    VALUES (kind, resource_type, resource_id, its_app, organization_id, request_id, payload);
END $$;
REVOKE EXECUTE ON FUNCTION event_append FROM PUBLIC;

-- Guarantees the next number of what is committed. It runs as part of COMMIT: the lock is held for one look-up, one insert and
-- the write of the commit, no client can be slow in between, and it ends when the row can be seen. Who has this lock may then
-- wait for that of the audit log (`audit_chain`), and never the other way round: a change tells its event first.
CREATE FUNCTION event_number() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    last_number  bigint;
BEGIN
    DELETE FROM event_pending WHERE id = NEW.id;
    PERFORM pg_advisory_xact_lock(8030890556487006565);  -- the first 8 bytes of "ostiarye", as db.schema has "ostiarym"
    SELECT number INTO last_number FROM event_outbox ORDER BY number DESC LIMIT 1;
    INSERT INTO event_outbox VALUES (
        coalesce(last_number, 0) + 1, clock_timestamp(), NEW.kind, NEW.resource_type, NEW.resource_id, NEW.app_id,
        NEW.organization_id, NEW.request_id, NEW.payload
    );
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER event_pending_number AFTER INSERT ON event_pending
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION event_number();

-- Guarantees one event `quota.reached` for each row of quota_events, which is there once for a subject, quota, period and share,
-- however often it is told: written with the row, that is with the calls that told it. Of a key, app or organization that is not
-- known here (of a file, or of a token) it is the platform's own.
CREATE FUNCTION quota_events_tell() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO event_pending (kind, resource_type, resource_id, app_id, organization_id, payload)
    SELECT 'quota.reached', told.type, told.id, coalesce(k.app_id, a.id), coalesce(of_key.organization_id, a.organization_id, o.id),
           jsonb_build_object(
               'quota', told.quota, 'threshold', told.threshold, 'limit', told.calls_max, 'test', told.test,
               'reached_at', to_char(told.reached_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
               'period_ends', to_char(told.period_ends AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
           )
    FROM (
        SELECT i.*, i.subject LIKE 'test:%' AS test,
               CASE split_part(regexp_replace(i.subject, '^test:', ''), ':', 1)
                   WHEN 'k' THEN 'key' WHEN 'a' THEN 'app' WHEN 'o' THEN 'organization' WHEN 'r' THEN 'route'
                   WHEN 'i' THEN 'address' ELSE 'header' END AS type,
               regexp_replace(i.subject, '^(test:)?[a-z]:', '') AS id
        FROM inserted i
    ) AS told
    LEFT JOIN api_keys k ON told.type = 'key' AND k.id = told.id
    LEFT JOIN apps of_key ON of_key.id = k.app_id
    LEFT JOIN apps a ON a.id = CASE WHEN told.type = 'app' AND told.id ~ '^[0-9a-f-]{36}$' THEN told.id::uuid END
    LEFT JOIN organizations o
        ON o.id = CASE WHEN told.type = 'organization' AND told.id ~ '^[0-9a-f-]{36}$' THEN told.id::uuid END
    ORDER BY told.reached_at, told.subject, told.quota, told.threshold;
    RETURN NULL;
END $$;
CREATE TRIGGER quota_events_tell AFTER INSERT ON quota_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION quota_events_tell();

-- They find nothing that a caller put in the way.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION event_append SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION event_number SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION quota_events_tell SET search_path = %I, pg_temp', current_schema());
END $$;
