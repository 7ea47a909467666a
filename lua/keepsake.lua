-- A gateway node leaves something in Redis, to see later whether Redis still has it.
--
-- Guarantees: whoever finds nothing leaves what it brought; whoever finds something leaves it as it is, with the moment of
--       this look. That moment only rises, however Redis's clock is set, as long as Redis forgets nothing.
-- KEYS  1 the keepsake: "<name>:<moment of the last look, µs>"
-- ARGV  1 the name of a new one; 2 its life in ms, from this look on
-- Returns the name that stands there now, the moment of the look before (0 if there was nothing), the moment of this one.
--       Cost O(1). Clock: TIME, read once.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local name, before = string.match(redis.call('GET', KEYS[1]) or '', '^(%x+):(%d+)$')
if name then
  before = tonumber(before)
  if now <= before then now = before + 1 end
else
  name, before = ARGV[1], 0
end
redis.call('SET', KEYS[1], name .. string.format(':%.0f', now), 'PX', ARGV[2])
return {name, before, now}
