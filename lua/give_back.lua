-- Takes a call back out of sliding windows that counted it, because another part of a Redis Cluster refused that call.
--
-- Guarantees: afterwards the windows are as if the call had not been counted; no other call is taken out of a slot than one of
--       the same slot, so no window ever holds more than its limit. What is not found (the slot was forgotten, the clock was
--       set back, the plan changed) stays as it is: then a call that was refused counts, and none too few.
-- KEYS  1 the state of a subject (lua/decide.lua describes it)
-- ARGV  pairs: the name of a window in the layout ("w60"), when the slot that the call was counted in is forgotten (µs)
-- Returns how many windows gave it back. Cost O(slots of the windows), at most 122 each. Clock: none.
local pack, unpack_from, sub = struct.pack, struct.unpack, string.sub
local SLOT, SLOT_BYTES, WINDOW_FORMAT = '<dI4', 12, '<ddddd'

local raw = redis.call('GET', KEYS[1])
local finish = raw and string.find(raw, '|', 1, true)
if not finish then return 0 end

-- The numbers of all limits come first, then the rings of the windows, in the same order.
local order, windows, at = {}, {}, finish + 1
for name in string.gmatch(sub(raw, 1, finish - 1), '[^;]+') do
  if sub(name, 1, 1) == 'w' then
    local window = {name = name}
    window.total, window.first, window.last, window.calls, window.slots_n, at = unpack_from(WINDOW_FORMAT, raw, at)
    windows[name], order[#order + 1] = window, window
  else
    order[#order + 1] = {numbers = sub(raw, at, at + 15)}
    at = at + 16
  end
end
for o = 1, #order do
  local window = order[o]
  if window.name then
    local after = at + window.slots_n * SLOT_BYTES
    window.ring, at = sub(raw, at, after - 1), after
  end
end

local function out_of_ring(window, forgotten_at)
  for s = 1, window.slots_n do
    local begin = (s - 1) * SLOT_BYTES + 1
    local moment, calls = unpack_from(SLOT, window.ring, begin)
    if moment == forgotten_at then
      local slot = ''
      if calls > 1 then slot = pack(SLOT, moment, calls - 1) else window.slots_n = window.slots_n - 1 end
      window.ring = sub(window.ring, 1, begin - 1) .. slot .. sub(window.ring, begin + SLOT_BYTES)
      return true
    end
  end
  return false
end

local function out_of_last(window)
  window.calls = window.calls - 1
  if window.calls == 0 and window.slots_n > 0 then
    window.last, window.calls = unpack_from(SLOT, window.ring, #window.ring - SLOT_BYTES + 1)
    window.ring, window.slots_n = sub(window.ring, 1, -SLOT_BYTES - 1), window.slots_n - 1
  end
end

local given_back = 0
for a = 1, #ARGV, 2 do
  local window, forgotten_at = windows[ARGV[a]], tonumber(ARGV[a + 1])
  if window and window.total > 0 then
    local found = window.last == forgotten_at
    if found then out_of_last(window) else found = out_of_ring(window, forgotten_at) end
    if found then
      given_back = given_back + 1
      window.total = window.total - 1
      -- No slot is empty: the first one says when the window next has room.
      if window.slots_n > 0 then window.first = unpack_from(SLOT, window.ring, 1) else window.first = window.last end
      if window.total == 0 then window.first, window.last, window.calls = 0, 0, 0 end
    end
  end
end
if given_back == 0 then return 0 end

local parts, rings = {sub(raw, 1, finish)}, {}
for o = 1, #order do
  local window = order[o]
  if window.name then
    parts[#parts + 1] = pack(WINDOW_FORMAT, window.total, window.first, window.last, window.calls, window.slots_n)
    rings[#rings + 1] = window.ring
  else
    parts[#parts + 1] = window.numbers
  end
end
redis.call('SET', KEYS[1], table.concat(parts) .. table.concat(rings), 'KEEPTTL')
return given_back
