-- A gateway node says that it is there, and is told how many there are.
--
-- Guarantees: a node counts for one life after it last said something, by Redis's clock, and no longer. The set has no more
--       members than there are nodes, and vanishes one life after the last of them.
-- KEYS  1 the sorted set of nodes
-- ARGV  1 the node; 2 its life in µs
-- Returns how many nodes there are, this one among them. Cost O(log n), n the nodes. Clock: TIME, read once.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local life = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + life, ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(life / 1000))
return redis.call('ZCARD', KEYS[1])
