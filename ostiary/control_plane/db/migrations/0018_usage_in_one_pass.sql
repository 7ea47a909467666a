-- What follows from calls in one pass over them, and calls straight into the partition of their day (decision 0037).
--
-- Guarantees: a row of usage_events is in all roll-ups, its key's last use is known and what it tells of quotas is told when the
-- statement that inserted it ends, or none of it and the row is not there. That holds whether the statement names usage_events or,
-- for whom `usage_partition` has told, a partition. Nothing that is there is changed. Shippers wait meanwhile; the lock is taken at
-- once and whole, as in 0008. Gateways of before go on: they name usage_events.
LOCK TABLE usage_events IN ACCESS EXCLUSIVE MODE;

-- Guarantees: see above. Rows are taken in one order by everyone: minutes, hours, days, each in the order of its key, then uses of
-- keys, then quotas, and those of all keys together last, because every shipper wants them. So gateways that write at once wait for
-- each other and never deadlock.
--
-- The calls are read once, in groups by minute, caller, secret, route, method and status; all else is made of the groups, but for
-- address and agent of each last use, which are looked up by its time alone (IS NOT DISTINCT FROM can't be hashed, so that only the
-- first column of most calls is read), and quotas, if any call tells of one. ROW(...)::type, because an array of anonymous rows is
-- made one of a table's rows by way of text. The settings, because a plan is made for the first segment of a connection, which may
-- have one call: to sort and to compare each with each would be fine for that one.
--
-- Of a key: a later use is never replaced by an earlier one, and a clock that is ahead can't claim a use in the future, which would
-- hide all uses until then. Of a quota: each share once for each subject and period; whoever tells of 90 % tells of 50 and 80 too.
CREATE FUNCTION usage_take_in() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT SET enable_nestloop = off SET enable_sort = off AS $$
DECLARE
    minutes         usage_rollups_minute[];
    hours           usage_rollups_hour[];
    all_minutes     usage_rollups_all_minute[];
    all_hours       usage_rollups_all_hour[];
    uses            key_uses[];
    calls_that_tell bigint;
BEGIN
    WITH called AS MATERIALIZED (
        SELECT date_bin('1 minute', occurred_at, 'epoch') AS minute, organization_id, app_id, key_id, key_generation, environment,
               route, method, status, count(*) AS calls, count(*) FILTER (WHERE NOT complete) AS incomplete,
               count(*) FILTER (WHERE overage) AS overage, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out,
               sum(latency_us) AS latency_us_sum, coalesce(sum(upstream_us), 0) AS upstream_us_sum,
               sum((usage_latency_weights())[width_bucket(latency_us, usage_latency_bounds_us()) + 1]) AS latency_histogram,
               max(occurred_at) AS last_at, count(quota_reached) AS tell
        FROM inserted
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
    )
    SELECT (
        SELECT array_agg(ROW(minute, organization_id, app_id, key_id, environment, route, method, status,
                             calls, incomplete, overage, bytes_in, bytes_out, latency_us_sum, upstream_us_sum,
                             latency_histogram)::usage_rollups_minute)
        FROM (
            SELECT minute, organization_id, app_id, key_id, environment, route, method, status,
                   sum(calls) AS calls, sum(incomplete) AS incomplete, sum(overage) AS overage, sum(bytes_in) AS bytes_in,
                   sum(bytes_out) AS bytes_out, sum(latency_us_sum) AS latency_us_sum, sum(upstream_us_sum) AS upstream_us_sum,
                   sum(latency_histogram) AS latency_histogram
            FROM called GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        ) AS rollup
    ), (
        SELECT array_agg(ROW(key_id, key_generation, last_at, NULL, NULL)::key_uses)
        FROM (
            SELECT key_id, key_generation, max(last_at) AS last_at FROM called
            WHERE key_id IS NOT NULL AND key_generation IS NOT NULL GROUP BY 1, 2
        ) AS used
    ), (SELECT sum(tell) FROM called)
    INTO minutes, uses, calls_that_tell;
    IF minutes IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(ROW(hour, organization_id, app_id, key_id, environment, route, method, status,
                         calls, incomplete, overage, bytes_in, bytes_out, latency_us_sum, upstream_us_sum,
                         latency_histogram)::usage_rollups_hour)
    INTO hours FROM (
        SELECT date_bin('1 hour', minute, 'epoch') AS hour, organization_id, app_id, key_id, environment, route, method, status,
               sum(calls) AS calls, sum(incomplete) AS incomplete, sum(overage) AS overage, sum(bytes_in) AS bytes_in,
               sum(bytes_out) AS bytes_out, sum(latency_us_sum) AS latency_us_sum, sum(upstream_us_sum) AS upstream_us_sum,
               sum(latency_histogram) AS latency_histogram
        FROM unnest(minutes)
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ) AS rollup;
    SELECT array_agg(ROW(minute, environment, route, method, status,
                         calls, incomplete, overage, bytes_in, bytes_out, latency_us_sum, upstream_us_sum,
                         latency_histogram)::usage_rollups_all_minute)
    INTO all_minutes FROM (
        SELECT minute, environment, route, method, status,
               sum(calls) AS calls, sum(incomplete) AS incomplete, sum(overage) AS overage, sum(bytes_in) AS bytes_in,
               sum(bytes_out) AS bytes_out, sum(latency_us_sum) AS latency_us_sum, sum(upstream_us_sum) AS upstream_us_sum,
               sum(latency_histogram) AS latency_histogram
        FROM unnest(minutes)
        GROUP BY 1, 2, 3, 4, 5
    ) AS rollup;
    SELECT array_agg(ROW(hour, environment, route, method, status,
                         calls, incomplete, overage, bytes_in, bytes_out, latency_us_sum, upstream_us_sum,
                         latency_histogram)::usage_rollups_all_hour)
    INTO all_hours FROM (
        SELECT date_bin('1 hour', minute, 'epoch') AS hour, environment, route, method, status,
               sum(calls) AS calls, sum(incomplete) AS incomplete, sum(overage) AS overage, sum(bytes_in) AS bytes_in,
               sum(bytes_out) AS bytes_out, sum(latency_us_sum) AS latency_us_sum, sum(upstream_us_sum) AS upstream_us_sum,
               sum(latency_histogram) AS latency_histogram
        FROM unnest(all_minutes)
        GROUP BY 1, 2, 3, 4, 5
    ) AS rollup;

    INSERT INTO usage_rollups_minute AS total SELECT * FROM unnest(minutes)
    ORDER BY app_id, minute, key_id, route, method, status, environment, organization_id
    ON CONFLICT ON CONSTRAINT usage_rollups_minute_key DO UPDATE SET
        calls = total.calls + excluded.calls,
        incomplete = total.incomplete + excluded.incomplete,
        overage = total.overage + excluded.overage,
        bytes_in = total.bytes_in + excluded.bytes_in,
        bytes_out = total.bytes_out + excluded.bytes_out,
        latency_us_sum = total.latency_us_sum + excluded.latency_us_sum,
        upstream_us_sum = total.upstream_us_sum + excluded.upstream_us_sum,
        latency_histogram = total.latency_histogram + excluded.latency_histogram;

    INSERT INTO usage_rollups_hour AS total SELECT * FROM unnest(hours)
    ORDER BY app_id, hour, key_id, route, method, status, environment, organization_id
    ON CONFLICT ON CONSTRAINT usage_rollups_hour_key DO UPDATE SET
        calls = total.calls + excluded.calls,
        incomplete = total.incomplete + excluded.incomplete,
        overage = total.overage + excluded.overage,
        bytes_in = total.bytes_in + excluded.bytes_in,
        bytes_out = total.bytes_out + excluded.bytes_out,
        latency_us_sum = total.latency_us_sum + excluded.latency_us_sum,
        upstream_us_sum = total.upstream_us_sum + excluded.upstream_us_sum,
        latency_histogram = total.latency_histogram + excluded.latency_histogram;

    INSERT INTO usage_rollups_day AS total
        (day, organization_id, app_id, key_id, environment, route, method, status_class,
         calls, incomplete, overage, bytes_in, bytes_out, latency_us_sum, upstream_us_sum, latency_histogram)
    SELECT (hour AT TIME ZONE 'UTC')::date, organization_id, app_id, key_id, environment, route, method, (status / 100)::smallint,
           sum(calls), sum(incomplete), sum(overage), sum(bytes_in), sum(bytes_out), sum(latency_us_sum), sum(upstream_us_sum),
           sum(latency_histogram)
    FROM unnest(hours)
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ORDER BY 1, 3, 4, 6, 7, 8, 5, 2
    ON CONFLICT ON CONSTRAINT usage_rollups_day_key DO UPDATE SET
        calls = total.calls + excluded.calls,
        incomplete = total.incomplete + excluded.incomplete,
        overage = total.overage + excluded.overage,
        bytes_in = total.bytes_in + excluded.bytes_in,
        bytes_out = total.bytes_out + excluded.bytes_out,
        latency_us_sum = total.latency_us_sum + excluded.latency_us_sum,
        upstream_us_sum = total.upstream_us_sum + excluded.upstream_us_sum,
        latency_histogram = total.latency_histogram + excluded.latency_histogram;

    INSERT INTO key_uses AS known (key_id, generation, last_used_at, last_used_ip, last_used_user_agent)
    SELECT DISTINCT ON (used.key_id, used.generation)
           used.key_id, used.generation, least(used.last_used_at, now()), call.ip, call.user_agent
    FROM unnest(uses) AS used JOIN inserted AS call
        ON call.occurred_at = used.last_used_at AND call.key_id IS NOT DISTINCT FROM used.key_id
        AND call.key_generation IS NOT DISTINCT FROM used.generation
    ORDER BY used.key_id, used.generation
    ON CONFLICT (key_id, generation) DO UPDATE SET
        last_used_at = excluded.last_used_at,
        last_used_ip = excluded.last_used_ip,
        last_used_user_agent = excluded.last_used_user_agent
        WHERE excluded.last_used_at > known.last_used_at;

    IF calls_that_tell > 0 THEN
        INSERT INTO quota_events (subject, quota, period_ends, threshold, calls_max, reached_at)
        SELECT told.subject, told.quota, to_timestamp(told.period_ends_us / 1000000), share.threshold, max(told.calls_max),
               min(inserted.occurred_at)
        FROM inserted,
             jsonb_to_recordset(inserted.quota_reached)
                 AS told (subject text, quota text, period_ends_us bigint, percent integer, calls_max bigint),
             unnest(ARRAY[50, 80, 90, 100]) AS share (threshold)
        WHERE inserted.quota_reached IS NOT NULL AND share.threshold <= told.percent
        GROUP BY 1, 2, 3, 4
        ORDER BY 1, 2, 3, 4
        ON CONFLICT ON CONSTRAINT quota_events_key DO NOTHING;
    END IF;

    INSERT INTO usage_rollups_all_minute AS total SELECT * FROM unnest(all_minutes)
    ORDER BY minute, route, method, status, environment
    ON CONFLICT ON CONSTRAINT usage_rollups_all_minute_key DO UPDATE SET
        calls = total.calls + excluded.calls,
        incomplete = total.incomplete + excluded.incomplete,
        overage = total.overage + excluded.overage,
        bytes_in = total.bytes_in + excluded.bytes_in,
        bytes_out = total.bytes_out + excluded.bytes_out,
        latency_us_sum = total.latency_us_sum + excluded.latency_us_sum,
        upstream_us_sum = total.upstream_us_sum + excluded.upstream_us_sum,
        latency_histogram = total.latency_histogram + excluded.latency_histogram;

    INSERT INTO usage_rollups_all_hour AS total SELECT * FROM unnest(all_hours)
    ORDER BY hour, route, method, status, environment
    ON CONFLICT ON CONSTRAINT usage_rollups_all_hour_key DO UPDATE SET
        calls = total.calls + excluded.calls,
        incomplete = total.incomplete + excluded.incomplete,
        overage = total.overage + excluded.overage,
        bytes_in = total.bytes_in + excluded.bytes_in,
        bytes_out = total.bytes_out + excluded.bytes_out,
        latency_us_sum = total.latency_us_sum + excluded.latency_us_sum,
        upstream_us_sum = total.upstream_us_sum + excluded.upstream_us_sum,
        latency_histogram = total.latency_histogram + excluded.latency_histogram;

    INSERT INTO usage_rollups_all_day AS total
    SELECT (hour AT TIME ZONE 'UTC')::date, environment, route, method, (status / 100)::smallint,
           sum(calls), sum(incomplete), sum(overage), sum(bytes_in), sum(bytes_out), sum(latency_us_sum), sum(upstream_us_sum),
           sum(latency_histogram)
    FROM unnest(all_hours)
    GROUP BY 1, 2, 3, 4, 5
    ORDER BY 1, 3, 4, 5, 2
    ON CONFLICT ON CONSTRAINT usage_rollups_all_day_key DO UPDATE SET
        calls = total.calls + excluded.calls,
        incomplete = total.incomplete + excluded.incomplete,
        overage = total.overage + excluded.overage,
        bytes_in = total.bytes_in + excluded.bytes_in,
        bytes_out = total.bytes_out + excluded.bytes_out,
        latency_us_sum = total.latency_us_sum + excluded.latency_us_sum,
        upstream_us_sum = total.upstream_us_sum + excluded.upstream_us_sum,
        latency_histogram = total.latency_histogram + excluded.latency_histogram;

    RETURN NULL;
END $$;

DROP TRIGGER usage_events_roll_up ON usage_events;
DROP TRIGGER usage_events_note_key_uses ON usage_events;
DROP TRIGGER usage_events_tell_quotas ON usage_events;
DROP FUNCTION usage_roll_up, note_key_uses, usage_tell_quotas;
CREATE TRIGGER usage_events_take_in AFTER INSERT ON usage_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION usage_take_in();

-- Guarantees: afterwards the partition of `day` (UTC) is there, what is inserted under its own name is taken in as under that of
-- usage_events, and whoever may insert there may insert here: by name it costs a sixth less, for Postgres writes rows one by one
-- where a table has both partitions and a trigger that sees all new rows. Rights come last, so that nobody ever has them to rows
-- that are not taken in. SECURITY DEFINER: the gateway's role makes neither tables nor triggers.
CREATE FUNCTION usage_partition(day date) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    partition text := 'usage_events_' || to_char(day, 'YYYYMMDD');
    grantee   oid;
BEGIN
    PERFORM usage_ensure_partition(day);  -- whose lock is held until the end: one makes the trigger
    IF NOT EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = quote_ident(partition)::regclass AND tgname = 'usage_events_take_in'
    ) THEN
        EXECUTE format('CREATE TRIGGER usage_events_take_in AFTER INSERT ON %I REFERENCING NEW TABLE AS inserted '
                       'FOR EACH STATEMENT EXECUTE FUNCTION usage_take_in()', partition);
    END IF;
    FOR grantee IN
        SELECT a.grantee FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = 'usage_events'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
        EXCEPT SELECT a.grantee FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = quote_ident(partition)::regclass AND a.privilege_type = 'INSERT'
    LOOP
        EXECUTE format('GRANT INSERT ON %I TO %s', partition,
                       CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END);
    END LOOP;
    RETURN partition;
END $$;

-- They find nothing that a caller put in the way.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION usage_take_in SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION usage_partition SET search_path = %I, pg_temp', current_schema());
END $$;
