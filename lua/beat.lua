-- A gateway node says that it is there, and by which skew it judges signed calls; and is told how many nodes there are, and
-- which calls others may have taken, and forgotten, by a smaller skew.
--
-- Guarantees: a node counts for one life after it last said something, by Redis's clock, and no longer. The set of nodes has no
--       more members than there are nodes, and vanishes one life after the last of them. The set of skews has no more members
--       than whole seconds that a skew may have, is kept for two hours past the last call that it tells of, and vanishes four
--       hours after the last node's last word.
-- KEYS  1 the sorted set of nodes; 2 the sorted set of skews (seconds): below which time (Unix seconds) calls are dated that
--       were taken by it
-- ARGV  1 the node; 2 its life in µs; 3 its skew, 0 for none; 4 below which time calls are dated that it takes until its next
--       beat (of an hour past Redis's clock at most); 5 up to which time they are dated that it takes no more
-- Returns how many nodes there are, this one among them; the least of the skews that are smaller than its own, of those with a
--       call that it would take, 0 for none; and below which time such calls are dated.
-- Cost  O(log n), n the nodes, and O(m), m the skews of the last hours: one, or two. Clock: TIME, read once.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local life, skew = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + life, ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(life / 1000))
local nodes = redis.call('ZCARD', KEYS[1])
if skew == 0 then return {nodes, 0, 0} end

local HOUR = 3600  -- the largest skew, and more than clocks are apart
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', time[1] - 2 * HOUR)
-- A node whose clock is years ahead would hold all others to its skew for as long.
local taken_below = math.min(tonumber(ARGV[4]), time[1] + skew + HOUR)
local told = redis.call('ZSCORE', KEYS[2], ARGV[3])
if not told or tonumber(told) < taken_below then redis.call('ZADD', KEYS[2], taken_below, ARGV[3]) end
redis.call('EXPIRE', KEYS[2], 4 * HOUR)
local least, before = 0, 0
local known = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[5], '+inf', 'WITHSCORES')
for i = 1, #known, 2 do  -- the last is the latest
  local seconds = tonumber(known[i])
  if seconds < skew then
    if least == 0 or seconds < least then least = seconds end
    before = tonumber(known[i + 1])
  end
end
return {nodes, least, before}
