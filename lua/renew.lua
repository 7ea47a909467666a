-- Renews the leases of calls that are under way.
--
-- Guarantees: a call that its worker still knows counts as under way for another life of a lease, also if Redis had
--       forgotten it meanwhile (it is under way, so it must count). No more than the worker holds is written.
-- KEYS  the lease key of each call
-- ARGV  1 life of a lease in µs; then the id of each lease, in the order of the keys
-- Returns nothing of use. Cost O(log n) a call, n the calls under way of its key. Clock: TIME, read once.
local time = redis.call('TIME')
local life = tonumber(ARGV[1])
local ends = time[1] * 1000000 + time[2] + life
for i = 1, #KEYS do
  redis.call('ZADD', KEYS[i], ends, ARGV[i + 1])
  redis.call('PEXPIRE', KEYS[i], math.floor(life / 1000))
end
return #KEYS
