-- The index of roll-ups on time is for questions about no organization and no app alone.
--
-- Guarantees: a question about an organization or an app is answered along the index that begins with it. Postgres took the one on
-- time: rows of an hour lie side by side and those of an organization do not, so by its reckoning (each page from a disk) the whole
-- hour is cheaper, and it read everyone's roll-ups to keep one in twenty-five. An index on an expression is used only where the
-- expression stands in the question (`within` in control_plane/usage/store.py); it costs writers what the other did. Nothing is
-- changed or lost; shippers and readers wait while it is made, and the locks are taken at once, in the order in which shippers do.
LOCK TABLE usage_events, usage_rollups_minute, usage_rollups_hour IN ACCESS EXCLUSIVE MODE;

DROP INDEX usage_rollups_minute_by_time, usage_rollups_hour_by_time;
CREATE INDEX usage_rollups_minute_by_time ON usage_rollups_minute ((minute AT TIME ZONE 'UTC'));
CREATE INDEX usage_rollups_hour_by_time ON usage_rollups_hour ((hour AT TIME ZONE 'UTC'));

-- Postgres knows nothing of an expression before it has looked: past partitions, which nobody writes to any more, it would never
-- look at by itself. It takes seconds, whatever their size.
ANALYZE usage_rollups_minute, usage_rollups_hour;
