-- Roll-ups of everyone's calls together: by minute, hour and day as those of 0008, without organization, app and key.
--
-- Guarantees: a row of usage_events is in these three when the statement that inserted it ends, as it is in those by key, or in
-- none. So a question about everyone reads as many rows as there are routes, methods and statuses, however many keys there are.
-- What is there already is summed up here, from the roll-ups; nothing is changed or lost. Shippers and readers wait meanwhile:
-- the lock is taken at once and whole, as in 0008.
LOCK TABLE usage_events IN ACCESS EXCLUSIVE MODE;

CREATE TABLE usage_rollups_all_minute (
    minute             timestamptz NOT NULL,
    environment        text COLLATE "C",
    route              text COLLATE "C",
    method             text COLLATE "C" NOT NULL,
    status             smallint NOT NULL,
    calls              bigint NOT NULL,
    incomplete         bigint NOT NULL,
    overage            bigint NOT NULL,
    bytes_in           bigint NOT NULL,
    bytes_out          bigint NOT NULL,
    latency_us_sum     bigint NOT NULL,
    upstream_us_sum    bigint NOT NULL,
    latency_histogram  numeric NOT NULL,          -- see usage_latency_weights
    CONSTRAINT usage_rollups_all_minute_key UNIQUE NULLS NOT DISTINCT (minute, route, method, status, environment)
) PARTITION BY RANGE (minute);

CREATE TABLE usage_rollups_all_hour (
    hour               timestamptz NOT NULL,
    environment        text COLLATE "C",
    route              text COLLATE "C",
    method             text COLLATE "C" NOT NULL,
    status             smallint NOT NULL,
    calls              bigint NOT NULL,
    incomplete         bigint NOT NULL,
    overage            bigint NOT NULL,
    bytes_in           bigint NOT NULL,
    bytes_out          bigint NOT NULL,
    latency_us_sum     bigint NOT NULL,
    upstream_us_sum    bigint NOT NULL,
    latency_histogram  numeric NOT NULL,
    CONSTRAINT usage_rollups_all_hour_key UNIQUE NULLS NOT DISTINCT (hour, route, method, status, environment)
) PARTITION BY RANGE (hour);

CREATE TABLE usage_rollups_all_day (
    day                date NOT NULL,             -- UTC
    environment        text COLLATE "C",
    route              text COLLATE "C",
    method             text COLLATE "C" NOT NULL,
    status_class       smallint NOT NULL,
    calls              bigint NOT NULL,
    incomplete         bigint NOT NULL,
    overage            bigint NOT NULL,
    bytes_in           bigint NOT NULL,
    bytes_out          bigint NOT NULL,
    latency_us_sum     bigint NOT NULL,
    upstream_us_sum    bigint NOT NULL,
    latency_histogram  numeric NOT NULL,
    CONSTRAINT usage_rollups_all_day_key UNIQUE NULLS NOT DISTINCT (day, route, method, status_class, environment)
) WITH (fillfactor = 70);

-- Guarantees: as in 0008; the partitions of these too.
CREATE OR REPLACE FUNCTION usage_ensure_partition(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    month date := make_date(extract(year FROM day)::int, extract(month FROM day)::int, 1);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('usage_ensure_partition', 0));
    PERFORM usage_attach_partition(parent, parent || '_' || to_char(day, 'YYYYMMDD'),
        day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC')
    FROM unnest(ARRAY['usage_events', 'usage_rollups_minute', 'usage_rollups_all_minute']) AS parent;
    PERFORM usage_attach_partition(parent, parent || '_' || to_char(month, 'YYYYMM'),
        month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC')
    FROM unnest(ARRAY['usage_rollups_hour', 'usage_rollups_all_hour']) AS parent;
END $$;

-- Guarantees: as in 0008. Rows are taken in one order by everyone; those of all keys together last, because every shipper wants
-- them: they are held for the milliseconds until the commit and no longer.
CREATE OR REPLACE FUNCTION usage_roll_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    minutes usage_rollups_minute[];
    hours   usage_rollups_hour[];
    all_minutes usage_rollups_all_minute[];
    all_hours   usage_rollups_all_hour[];
BEGIN
    SELECT array_agg(rollup) INTO minutes FROM (
        SELECT date_bin('1 minute', occurred_at, 'epoch') AS minute, organization_id, app_id, key_id, environment, route, method,
               status, count(*) AS calls, count(*) FILTER (WHERE NOT complete) AS incomplete,
               count(*) FILTER (WHERE overage) AS overage, sum(bytes_in)::bigint AS bytes_in, sum(bytes_out)::bigint AS bytes_out,
               sum(latency_us)::bigint AS latency_us_sum, coalesce(sum(upstream_us), 0)::bigint AS upstream_us_sum,
               sum((usage_latency_weights())[width_bucket(latency_us, usage_latency_bounds_us()) + 1]) AS latency_histogram
        FROM inserted
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ) AS rollup;
    IF minutes IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(rollup) INTO hours FROM (
        SELECT date_bin('1 hour', minute, 'epoch'), organization_id, app_id, key_id, environment, route, method, status,
               sum(calls)::bigint, sum(incomplete)::bigint, sum(overage)::bigint, sum(bytes_in)::bigint,
               sum(bytes_out)::bigint, sum(latency_us_sum)::bigint, sum(upstream_us_sum)::bigint, sum(latency_histogram)
        FROM unnest(minutes)
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ) AS rollup;
    SELECT array_agg(rollup) INTO all_minutes FROM (
        SELECT minute, environment, route, method, status,
               sum(calls)::bigint, sum(incomplete)::bigint, sum(overage)::bigint, sum(bytes_in)::bigint,
               sum(bytes_out)::bigint, sum(latency_us_sum)::bigint, sum(upstream_us_sum)::bigint, sum(latency_histogram)
        FROM unnest(minutes)
        GROUP BY 1, 2, 3, 4, 5
    ) AS rollup;
    SELECT array_agg(rollup) INTO all_hours FROM (
        SELECT date_bin('1 hour', minute, 'epoch'), environment, route, method, status,
               sum(calls)::bigint, sum(incomplete)::bigint, sum(overage)::bigint, sum(bytes_in)::bigint,
               sum(bytes_out)::bigint, sum(latency_us_sum)::bigint, sum(upstream_us_sum)::bigint, sum(latency_histogram)
        FROM unnest(all_minutes)
        GROUP BY 1, 2, 3, 4, 5
    ) AS rollup;

    INSERT INTO usage_rollups_minute AS total
    SELECT * FROM unnest(minutes)
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

    INSERT INTO usage_rollups_hour AS total
    SELECT * FROM unnest(hours)
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

    INSERT INTO usage_rollups_all_minute AS total
    SELECT * FROM unnest(all_minutes)
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

    INSERT INTO usage_rollups_all_hour AS total
    SELECT * FROM unnest(all_hours)
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

-- What was there before this migration. Only these partitions: one of calls that retention has dropped stays dropped.
SELECT usage_attach_partition('usage_rollups_all_minute', 'usage_rollups_all_minute_' || to_char(day, 'YYYYMMDD'),
    day AT TIME ZONE 'UTC', (day + interval '1 day') AT TIME ZONE 'UTC') FROM (
    SELECT DISTINCT date_trunc('day', minute AT TIME ZONE 'UTC') AS day FROM usage_rollups_minute ORDER BY 1
) AS days;
SELECT usage_attach_partition('usage_rollups_all_hour', 'usage_rollups_all_hour_' || to_char(month, 'YYYYMM'),
    month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC') FROM (
    SELECT DISTINCT date_trunc('month', hour AT TIME ZONE 'UTC') AS month FROM usage_rollups_hour ORDER BY 1
) AS months;

INSERT INTO usage_rollups_all_minute
SELECT minute, environment, route, method, status, sum(calls), sum(incomplete), sum(overage), sum(bytes_in), sum(bytes_out),
       sum(latency_us_sum), sum(upstream_us_sum), sum(latency_histogram)
FROM usage_rollups_minute GROUP BY 1, 2, 3, 4, 5;

INSERT INTO usage_rollups_all_hour
SELECT hour, environment, route, method, status, sum(calls), sum(incomplete), sum(overage), sum(bytes_in), sum(bytes_out),
       sum(latency_us_sum), sum(upstream_us_sum), sum(latency_histogram)
FROM usage_rollups_hour GROUP BY 1, 2, 3, 4, 5;

INSERT INTO usage_rollups_all_day
SELECT day, environment, route, method, status_class, sum(calls), sum(incomplete), sum(overage), sum(bytes_in), sum(bytes_out),
       sum(latency_us_sum), sum(upstream_us_sum), sum(latency_histogram)
FROM usage_rollups_day GROUP BY 1, 2, 3, 4, 5;
