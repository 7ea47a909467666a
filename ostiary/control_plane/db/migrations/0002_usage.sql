-- Usage. Guarantees: one row of usage_events per metered call; a spool segment is counted once however often it is delivered
-- (usage_segments); usage_rollups_day always agrees with what was inserted into usage_events, because the same statement
-- feeds both; and every worker's own count of what it accepted and dropped stands beside what arrived (usage_runs), so that
-- `ostiary usage reconcile` can compare numbers that were not derived from one another.
--
-- Ids refer to keys, apps and organizations without a foreign key: keys of the configuration file are metered too, and a
-- call that was answered is recorded even when its key has gone since. Text that is only ever compared for equality has the
-- collation "C", which makes grouping and index upkeep cheaper and does not depend on the operating system's locales.

CREATE TABLE usage_events (
    occurred_at      timestamptz NOT NULL,
    request_id       text COLLATE "C" NOT NULL,
    key_id           text COLLATE "C",            -- NULL: anonymous, or refused before the caller was known
    app_id           uuid,                        -- NULL for keys of the configuration file
    organization_id  uuid,
    environment      text COLLATE "C",
    route            text COLLATE "C",            -- NULL: no route matched
    path_template    text COLLATE "C",
    method           text COLLATE "C" NOT NULL,
    status           smallint NOT NULL,
    latency_us       bigint NOT NULL,
    upstream_us      bigint,                      -- NULL: no upstream was asked
    bytes_in         bigint NOT NULL,
    bytes_out        bigint NOT NULL,
    ip               inet,
    country          text COLLATE "C",
    user_agent       text,
    overage          boolean NOT NULL,
    complete         boolean NOT NULL             -- false: the answer was cut short
) PARTITION BY RANGE (occurred_at);

-- An app's calls in order of time; any span of time (BRIN: rows arrive nearly in order, and it costs nothing to keep); one
-- call by its id (hash: only ever asked for equality, and cheaper to keep than a tree over random text).
CREATE INDEX usage_events_by_app ON usage_events (app_id, occurred_at);
CREATE INDEX usage_events_by_time ON usage_events USING brin (occurred_at);
CREATE INDEX usage_events_by_request ON usage_events USING hash (request_id);

-- Guarantees: afterwards the partition of `day` (UTC) exists, whoever else creates it at the same time. Readers and writers of
-- other days are not held up: ATTACH takes a weaker lock than CREATE TABLE ... PARTITION OF. Any day will do, so a clock that
-- is wrong costs a partition, not an event. SECURITY DEFINER: the gateway's role needs no right to create tables.
CREATE FUNCTION usage_ensure_partition(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
DECLARE
    partition text := 'usage_events_' || to_char(day, 'YYYYMMDD');
    from_time timestamptz := day::timestamp AT TIME ZONE 'UTC';
    to_time   timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('usage_ensure_partition', 0));
    IF to_regclass(quote_ident(partition)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE usage_events INCLUDING ALL)', partition);
    EXECUTE format('ALTER TABLE usage_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, from_time, to_time);
END $$;

-- The ledger: a segment that stands here has been written, whole, in the transaction that put it here.
CREATE TABLE usage_segments (
    segment_id  uuid PRIMARY KEY,
    run_id      uuid NOT NULL,
    records     integer NOT NULL,             -- rows written
    lost        integer NOT NULL,             -- records that could not be read or stored; their file is kept as *.quarantine
    shipped_at  timestamptz NOT NULL DEFAULT now()
);

-- A run is one life of one worker process. `accepted` and `dropped` are the worker's own counts, `written` and `lost` are
-- what arrived; accepted = written + what is still in the spool + dropped + lost.
CREATE TABLE usage_runs (
    run_id      uuid PRIMARY KEY,
    spool_id    uuid NOT NULL,
    worker      text NOT NULL,
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz,                  -- set once nothing of the run is left in its spool
    killed      boolean NOT NULL DEFAULT false,
    accepted    bigint NOT NULL,
    dropped     bigint NOT NULL,
    written     bigint NOT NULL,
    lost        bigint NOT NULL
);

CREATE TABLE usage_rollups_day (
    day                date NOT NULL,         -- UTC
    organization_id    uuid,
    app_id             uuid,
    key_id             text COLLATE "C",
    environment        text COLLATE "C",
    route              text COLLATE "C",
    method             text COLLATE "C" NOT NULL,
    status_class       smallint NOT NULL,     -- 2 for 200-299 ...
    calls              bigint NOT NULL,
    errors             bigint GENERATED ALWAYS AS (CASE WHEN status_class >= 4 THEN calls ELSE 0 END) STORED,
    incomplete         bigint NOT NULL,
    overage            bigint NOT NULL,
    bytes_in           bigint NOT NULL,
    bytes_out          bigint NOT NULL,
    latency_us_sum     bigint NOT NULL,
    upstream_us_sum    bigint NOT NULL,
    latency_histogram  bigint[] NOT NULL,     -- calls by latency; see usage_latency_bounds_us
    CONSTRAINT usage_rollups_day_key UNIQUE NULLS NOT DISTINCT
        (day, app_id, key_id, route, method, status_class, environment, organization_id)
) WITH (fillfactor = 70);                     -- room for updates in place: a day's rows are counted up all day

CREATE INDEX usage_rollups_day_by_organization ON usage_rollups_day (organization_id, day);

-- The bounds of the histogram: 64 us times a power of the square root of two, up to 47 s. Entry 1 counts calls under the
-- first bound, entry i + 1 those from bound i to bound i + 1, the last those above. Adding two histograms entry by entry gives
-- the histogram of all their calls, which no quantile allows; a quantile read from it is off by at most 19 %.
CREATE FUNCTION usage_latency_bounds_us() RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg(floor(64 * power(2, i / 2.0))::bigint ORDER BY i) FROM generate_series(0, 39) AS i
$$;

-- The dense histogram of (bucket, calls) pairs; a bucket given twice counts twice.
CREATE FUNCTION usage_histogram(buckets integer[], calls bigint[]) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    histogram bigint[] := array_fill(0::bigint, ARRAY[41]);
BEGIN
    FOR i IN 1 .. cardinality(buckets) LOOP
        histogram[buckets[i] + 1] := histogram[buckets[i] + 1] + calls[i];
    END LOOP;
    RETURN histogram;
END $$;

CREATE FUNCTION usage_histogram_add(one bigint[], other bigint[]) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    FOR i IN 1 .. cardinality(other) LOOP
        IF other[i] <> 0 THEN
            one[i] := one[i] + other[i];
        END IF;
    END LOOP;
    RETURN one;
END $$;

-- Guarantees: what a statement inserts into usage_events is in usage_rollups_day when the statement ends, or neither is. Rows
-- are taken in one order by everyone, so that two gateways writing at once wait for each other and never deadlock.
CREATE FUNCTION usage_roll_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
    WITH bucketed AS (
        SELECT (occurred_at AT TIME ZONE 'UTC')::date AS day, app_id, key_id, route, method,
               (status / 100)::smallint AS status_class, environment, organization_id,
               width_bucket(latency_us, usage_latency_bounds_us()) AS bucket,
               count(*) AS calls, count(*) FILTER (WHERE NOT complete) AS incomplete, count(*) FILTER (WHERE overage) AS overage,
               sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out, sum(latency_us) AS latency_us,
               coalesce(sum(upstream_us), 0) AS upstream_us
        FROM inserted
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
    )
    INSERT INTO usage_rollups_day AS total
        (day, app_id, key_id, route, method, status_class, environment, organization_id,
         calls, incomplete, overage, bytes_in, bytes_out, latency_us_sum, upstream_us_sum, latency_histogram)
    SELECT day, app_id, key_id, route, method, status_class, environment, organization_id,
           sum(calls), sum(incomplete), sum(overage), sum(bytes_in), sum(bytes_out), sum(latency_us), sum(upstream_us),
           usage_histogram(array_agg(bucket), array_agg(calls))
    FROM bucketed
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT ON CONSTRAINT usage_rollups_day_key DO UPDATE SET
        calls = total.calls + excluded.calls,
        incomplete = total.incomplete + excluded.incomplete,
        overage = total.overage + excluded.overage,
        bytes_in = total.bytes_in + excluded.bytes_in,
        bytes_out = total.bytes_out + excluded.bytes_out,
        latency_us_sum = total.latency_us_sum + excluded.latency_us_sum,
        upstream_us_sum = total.upstream_us_sum + excluded.upstream_us_sum,
        latency_histogram = usage_histogram_add(total.latency_histogram, excluded.latency_histogram);
    RETURN NULL;
END $$;

CREATE TRIGGER usage_events_roll_up AFTER INSERT ON usage_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION usage_roll_up();
