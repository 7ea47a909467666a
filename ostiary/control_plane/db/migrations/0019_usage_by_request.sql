-- One call by its id, for a twelfth of the space and next to nothing when it is written (decision 0037).
--
-- Guarantees: a question for one request id reads an index, and of the calls those blocks alone that may hold it, where a
-- partition is so large that reading all of it would take longer. Nothing of the product asks it: people do, now and then, and for
-- that each call paid a tenth of what it costs. A filter is made of 32 blocks when Postgres vacuums, as it does by itself once
-- a fifth of a partition is new; until then new blocks are read. Not `autosummarize`: the few requests for it that Postgres keeps
-- are for the index on time, which questions of every minute need.
--
-- Nothing is changed or lost. Shippers and readers wait while the index is made, a quarter of a microsecond a call and what it
-- takes to read them; the lock is taken at once and whole, as in 0008.
LOCK TABLE usage_events IN ACCESS EXCLUSIVE MODE;

DROP INDEX usage_events_by_request;
CREATE INDEX usage_events_by_request ON usage_events
    USING brin (request_id text_bloom_ops (false_positive_rate = 0.001)) WITH (pages_per_range = 32);
