-- Limits in shadow, and how much of a quota is used. Guarantees: a call that a limit in shadow would have refused is marked in
-- its row; each share of a quota (50, 80, 90, 100 %) stands in quota_events once for each subject and period, however often it
-- is told, written by the statement that writes the row which told it: whatever reaches usage_events reaches quota_events.

ALTER TABLE usage_events
    ADD COLUMN would_refuse   text COLLATE "C",   -- names of limits in shadow, with commas between; NULL: none would have
    ADD COLUMN quota_reached  jsonb;              -- what this row tells of quotas, not only its own caller's; mostly NULL

-- The report on limits in shadow looks at these rows alone; where nothing is in shadow it is empty.
CREATE INDEX usage_events_by_shadow ON usage_events (occurred_at) WHERE would_refuse IS NOT NULL;

CREATE TABLE quota_events (
    subject      text COLLATE "C" NOT NULL,       -- k: a key, a: an app, o: an organization, r: a route, i: an address, h: a hash
    quota        text COLLATE "C" NOT NULL,       -- `standard:day` of a plan, `clients/day-quota-by-ip` of a route
    period_ends  timestamptz NOT NULL,            -- first moment of the next period, UTC
    threshold    smallint NOT NULL,               -- % of the quota
    calls_max    bigint NOT NULL,                 -- the quota, in calls that cost 1, as it was then
    reached_at   timestamptz NOT NULL,            -- when the call ended that told it
    CONSTRAINT quota_events_key PRIMARY KEY (subject, quota, period_ends, threshold)
);

CREATE INDEX quota_events_by_time ON quota_events (reached_at DESC);

-- Guarantees: what a statement's rows tell of quotas is in quota_events when the statement ends. Whoever tells of 90 % tells of
-- 50 and 80 too: one that was lost on its way is made up for. Rows are taken in one order by everyone.
CREATE FUNCTION usage_tell_quotas() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path FROM CURRENT AS $$
BEGIN
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
    RETURN NULL;
END $$;

CREATE TRIGGER usage_events_tell_quotas AFTER INSERT ON usage_events
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION usage_tell_quotas();
