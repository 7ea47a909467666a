-- Roll-ups by minute and hour beside those by day, and retention.
--
-- Guarantees: a row of usage_events is in all three roll-ups when the statement that inserted it ends, or in none and not there
-- itself. What is there already is rolled up by minute and hour here, from the rows; nothing is changed or lost. Shippers and
-- readers wait meanwhile (the spool grows): a row that came in between would be rolled up twice or not at all. The lock is taken
-- at once and whole, so that nothing can stand half way in its place.
LOCK TABLE usage_events IN ACCESS EXCLUSIVE MODE;

-- Blocks are summarized as they fill: a question about the last minutes must not read everything since the last vacuum.
DROP INDEX usage_events_by_time;
CREATE INDEX usage_events_by_time ON usage_events USING brin (occurred_at) WITH (autosummarize = on, pages_per_range = 32);

ALTER TABLE usage_events ADD COLUMN ip_hash bytea;  -- in the place of ip, where `usage.record.ip` says `hashed`

-- The bounds of the histogram: 64 us times a power of the fourth root of two, up to 57 s. Place 0 counts calls under the first
-- bound, place i those from bound i to bound i + 1, the last (80) those above. A quantile that is read as the middle of its place
-- (the geometric one) is off by at most 9.1 %.
CREATE OR REPLACE FUNCTION usage_latency_bounds_us() RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg(floor(64 * power(2, i / 4.0))::bigint ORDER BY i) FROM generate_series(0, 79) AS i
$$;

-- A histogram is one number: the calls of place i times 10^(12 i). So a call is one addition, two histograms are added by +, any
-- number by sum(), all in C; as an array, adding cost five times as much as everything else of a roll-up. No place of one row
-- can come to 10^12 calls: that is a million calls a second of one key for eleven days.
CREATE FUNCTION usage_latency_weights() RETURNS numeric[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg(('1' || repeat('0', 12 * i))::numeric ORDER BY i) FROM generate_series(0, 80) AS i
$$;

-- For those who read the tables: calls by place, the first entry those under the first bound.
CREATE FUNCTION usage_latency_calls(histogram numeric) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg(mod(div(histogram, weight), 1000000000000)::bigint ORDER BY place)
    FROM unnest(usage_latency_weights()) WITH ORDINALITY AS weights (weight, place)
$$;

-- Every place of before is two of now; its calls are halved among them. Quantiles of days before this migration stay off by at
-- most 19 %.
CREATE FUNCTION usage_latency_refined(histogram bigint[]) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT sum(CASE WHEN place = 1 THEN calls
                    WHEN place = 41 THEN calls * (usage_latency_weights())[80]
                    ELSE (calls - calls / 2) * (usage_latency_weights())[2 * place - 2]
                         + (calls / 2) * (usage_latency_weights())[2 * place - 1] END)
    FROM unnest(histogram) WITH ORDINALITY AS places (calls, place)
$$;
ALTER TABLE usage_rollups_day ALTER COLUMN latency_histogram TYPE numeric USING usage_latency_refined(latency_histogram);
DROP FUNCTION usage_latency_refined, usage_histogram, usage_histogram_add;

-- As usage_rollups_day, by exact status. Partitioned by day (minutes) and by month (hours), so that retention drops files and
-- deletes no rows. The unique index begins with the app, for that is what is asked for; another finds a span of everyone's.
CREATE TABLE usage_rollups_minute (
    minute             timestamptz NOT NULL,
    organization_id    uuid,
    app_id             uuid,
    key_id             text COLLATE "C",
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
    latency_histogram  numeric NOT NULL,          -- calls by latency; see usage_latency_weights
    CONSTRAINT usage_rollups_minute_key UNIQUE NULLS NOT DISTINCT
        (app_id, minute, key_id, route, method, status, environment, organization_id)
) PARTITION BY RANGE (minute);
CREATE INDEX usage_rollups_minute_by_time ON usage_rollups_minute (minute);
CREATE INDEX usage_rollups_minute_by_organization ON usage_rollups_minute (organization_id, minute);

CREATE TABLE usage_rollups_hour (
    hour               timestamptz NOT NULL,
    organization_id    uuid,
    app_id             uuid,
    key_id             text COLLATE "C",
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
    CONSTRAINT usage_rollups_hour_key UNIQUE NULLS NOT DISTINCT
        (app_id, hour, key_id, route, method, status, environment, organization_id)
) PARTITION BY RANGE (hour);
CREATE INDEX usage_rollups_hour_by_time ON usage_rollups_hour (hour);
CREATE INDEX usage_rollups_hour_by_organization ON usage_rollups_hour (organization_id, hour);

CREATE INDEX usage_rollups_day_by_app ON usage_rollups_day (app_id, day);

-- What retention has taken: everything before `kept_from`, and (`calls`) how many calls were in it where the books need to know:
-- for `days` those of the roll-ups, for `segments` the records of the ledger. A late row of a day before it makes its partition
-- again; that day is no longer held against its roll-ups.
CREATE TABLE usage_retention (
    kind       text PRIMARY KEY CHECK (kind IN ('events', 'minutes', 'hours', 'days', 'segments')),
    kept_from  date NOT NULL,
    calls      bigint NOT NULL DEFAULT 0
);

-- Guarantees: afterwards the partition is there, with the storage options of roll-ups where it is one (room for updates in place:
-- its rows are counted up until its time is over). ATTACH, because it takes a weaker lock than CREATE ... PARTITION OF.
CREATE FUNCTION usage_attach_partition(parent text, partition text, from_time timestamptz, to_time timestamptz)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF to_regclass(quote_ident(partition)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
    IF parent <> 'usage_events' THEN
        EXECUTE format('ALTER TABLE %I SET (fillfactor = 70)', partition);
    END IF;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition, from_time, to_time);
END $$;
REVOKE EXECUTE ON FUNCTION usage_attach_partition FROM PUBLIC;

-- Guarantees: afterwards the partitions that a row of `day` (UTC) needs exist, whoever else makes them at the same time. Any day
-- will do, so a clock that is wrong costs partitions, not an event.
CREATE OR REPLACE FUNCTION usage_ensure_partition(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    month date := make_date(extract(year FROM day)::int, extract(month FROM day)::int, 1);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('usage_ensure_partition', 0));
    PERFORM usage_attach_partition(parent, parent || '_' || to_char(day, 'YYYYMMDD'),
        day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC')
    FROM unnest(ARRAY['usage_events', 'usage_rollups_minute']) AS parent;
    PERFORM usage_attach_partition('usage_rollups_hour', 'usage_rollups_hour_' || to_char(month, 'YYYYMM'),
        month::timestamp AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
END $$;

-- Guarantees: see the head of this file. Rows are taken in one order by everyone, minutes first, then hours, then days, each in
-- the order of its key: gateways that write at once wait for each other and never deadlock. The calls are read once; hours are
-- made of minutes, days of hours.
CREATE OR REPLACE FUNCTION usage_roll_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    minutes usage_rollups_minute[];
    hours   usage_rollups_hour[];
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

    RETURN NULL;
END $$;

-- What was there before this migration.
SELECT usage_ensure_partition(day) FROM (
    SELECT DISTINCT (occurred_at AT TIME ZONE 'UTC')::date AS day FROM usage_events ORDER BY 1
) AS days;

INSERT INTO usage_rollups_minute
SELECT date_bin('1 minute', occurred_at, 'epoch') AS minute, organization_id, app_id, key_id, environment, route, method,
       status, count(*) AS calls, count(*) FILTER (WHERE NOT complete) AS incomplete,
       count(*) FILTER (WHERE overage) AS overage, sum(bytes_in)::bigint AS bytes_in, sum(bytes_out)::bigint AS bytes_out,
       sum(latency_us)::bigint AS latency_us_sum, coalesce(sum(upstream_us), 0)::bigint AS upstream_us_sum,
       sum((usage_latency_weights())[width_bucket(latency_us, usage_latency_bounds_us()) + 1]) AS latency_histogram
FROM usage_events
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;

INSERT INTO usage_rollups_hour
SELECT date_bin('1 hour', minute, 'epoch'), organization_id, app_id, key_id, environment, route, method, status,
       sum(calls)::bigint, sum(incomplete)::bigint, sum(overage)::bigint, sum(bytes_in)::bigint,
       sum(bytes_out)::bigint, sum(latency_us_sum)::bigint, sum(upstream_us_sum)::bigint, sum(latency_histogram)
FROM usage_rollups_minute
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;

-- Days whose rows somebody has dropped by hand have no minutes and hours.
INSERT INTO usage_retention (kind, kept_from)
SELECT kind, first_day FROM unnest(ARRAY['events', 'minutes', 'hours']) AS kind,
    (SELECT coalesce(min((occurred_at AT TIME ZONE 'UTC')::date), current_date) AS first_day FROM usage_events) AS rows
WHERE EXISTS (SELECT FROM usage_rollups_day WHERE day < first_day);
