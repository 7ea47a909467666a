-- Decides a batch of requests: token buckets, sliding windows, calendar quotas, concurrency and nonces.
--
-- Guarantees
--   All or nothing: a request that anything refuses leaves no trace; a used nonce takes nothing of the limits.
--   In order: each request of the batch sees what those before it took.
--   No span of a window's length ever holds more calls than its limit; a calendar period neither (unless overage is let in).
--   Every key that is written gets its time to live here, in the same step.
--
-- KEYS  for each request, in order: for each part of its specification the state key (if the part has limits) and the
--       lease key (if it bounds concurrency); then the nonce key (if it has a nonce).
-- ARGV  1  one byte a request: which specification it follows, from 0
--       2  '' in production: the clock is Redis's own. Tests, and only they, send microseconds here, because a month's end
--          or a leap day can't be waited for. Whoever may send EVALSHA may write these keys anyway, so it opens nothing
--       3  the name of this batch, with the number of a request the id of its lease; '' when nothing is leased
--       4… specifications, each (little-endian; text is preceded by its length in a byte):
--          text: life of the nonce in ms, '' without a nonce. byte: number of parts. For each part:
--            text: life of the state in ms. text: layout. text: format of the numbers. byte: number of limits.
--            double: calls under way at most, -1 for any number. double: life of a lease in µs
--            for each limit a byte and three doubles:
--              1 token bucket    capacity, cost of a call, gain a millisecond    numbers: level, at (ms)
--              2 sliding window  limit, length (µs), slot (µs)                   numbers: calls, first slot forgotten at,
--                                                                                last slot forgotten at, calls in it, slots
--                                                                                before it
--              3 quota           limit, period (1 hour, 2 day, 3 month), 1 if it refuses     numbers: calls, ends at (µs)
-- State   layout, numbers, then for each window its slots but the last, oldest first (forgotten at, calls): 12 bytes each.
--         The layout names the limits ("b600;w3600;q2;|"): a plan that changes keeps the counts of what it keeps.
-- Returns one string: the clock (µs, 8 bytes), then for each request 14 bytes:
--         outcome (0 allowed, 1 rate, 2 quota, 3 concurrency, 4 nonce used; +16 past a quota that lets in),
--         which limit (from 0 over all parts, then concurrency; 255 none): the one that refuses, of several the one with the
--         longest wait; else the one nearest to running out,
--         calls left of it (8 bytes), whole seconds until one more is admitted (4 bytes).
-- Cost    one MGET, one SET for each subject that was let in, one SET for each nonce; two or three calls for each lease.
--         O(1) a request, but for slots that left a window since the last call (each once) and, where a limit was lowered
--         under its use, a walk over at most 122 slots.
-- Clock   TIME, read once: the whole batch happens at one moment.
-- ostiary/core/limiting.py is the same arithmetic in Python; a property test holds the two together.

local call, pack, unpack_from, sub, byte = redis.call, struct.pack, struct.unpack, string.sub, string.byte
local floor, ceil = math.floor, math.ceil
local BUCKET, WINDOW, QUOTA = 1, 2, 3
local NUMBERS = {2, 5, 2}  -- how many numbers a limit keeps
local SLOT, SLOT_BYTES = '<dI4', 12

local now
if ARGV[2] == '' then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[2])
end
local now_ms = floor(now / 1000)

-- --- specifications ------------------------------------------------------------------------------------------------

local function read_specification(text)
  local nonce_ttl, parts_n, at = unpack_from('<Bc0B', text)
  local parts, number = {}, 0
  for p = 1, parts_n do
    local part = {first = number}
    local limits_n
    part.ttl, part.layout, part.format, limits_n, part.concurrency, part.lease_us, at =
      unpack_from('<Bc0Bc0Bc0Bdd', text, at)
    local offset = 1
    for l = 1, limits_n do
      local kind, a, b, c
      kind, a, b, c, at = unpack_from('<Bddd', text, at)
      part[l] = {kind, a, b, c, offset}
      offset = offset + NUMBERS[kind]
    end
    part.numbers = offset - 1
    number = number + limits_n
    parts[p] = part
  end
  return {nonce_ttl = nonce_ttl, parts = parts, limits_n = number}
end

local refs = ARGV[1]
local requests_n = #refs
local specifications = {}
for i = 4, #ARGV do specifications[i - 4] = read_specification(ARGV[i]) end

-- --- the calendar --------------------------------------------------------------------------------------------------

local function period_end(period)
  if period == 1 then return now - now % 3600000000 + 3600000000 end
  local days = floor(now / 86400000000)
  if period == 2 then return (days + 1) * 86400000000 end
  -- Civil from days, by eras of 400 years that begin on the 1st of March, so that a leap day is the last of its year
  -- (Howard Hinnant, "chrono-compatible low-level date algorithms").
  local z = days + 719468
  local day_of_era = z % 146097
  local year_of_era = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524)
                             - floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local month = floor((5 * day_of_year + 2) / 153)  -- 0 is March, 11 is February
  local begins = floor((153 * month + 2) / 5)
  local length
  if month < 11 then
    length = floor((153 * (month + 1) + 2) / 5) - begins
  else
    local year = year_of_era + 1  -- January and February belong to the next civil year
    length = (year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)) and 29 or 28
  end
  return (days - (day_of_year - begins) + length) * 86400000000
end

-- --- states --------------------------------------------------------------------------------------------------------
-- A state is the array of its numbers; `rings` has the slots of each window by the offset of its numbers. States are read
-- once a batch and settled at once, because the whole batch has one moment.

local function settle(state, part)
  for l = 1, #part do
    local limit = part[l]
    local kind, o = limit[1], limit[5]
    if kind == BUCKET then
      local elapsed = now_ms - state[o + 1]
      local level = state[o]
      if elapsed > 0 then  -- a clock set back gives nothing and takes nothing
        level = level + elapsed * limit[4]
        state[o + 1] = now_ms
      end
      state[o] = level < limit[2] and level or limit[2]
    elseif kind == WINDOW then
      if state[o] > 0 and state[o + 1] <= now then
        local ring, total, slots_n, at, first = state.rings[o], state[o], state[o + 4], 1, nil
        while slots_n > 0 do
          local forgotten_at, calls = unpack_from(SLOT, ring, at)
          if forgotten_at > now then first = forgotten_at break end
          total, slots_n, at = total - calls, slots_n - 1, at + SLOT_BYTES
        end
        if not first then
          first = state[o + 2]
          if first <= now then total, first, state[o + 3] = 0, 0, 0 end
        end
        state[o], state[o + 1], state[o + 4] = total, first, slots_n
        state.rings[o] = sub(ring, at)
      end
    elseif now >= state[o + 1] then
      state[o], state[o + 1] = 0, period_end(limit[3])
    end
  end
  return state
end

-- A state of another layout: its limits by name ("w3600", "q2"; "b" for the bucket, with the cost of a call it was counted
-- in), each with its numbers and slots.
local function read_other(raw)
  local known = {}
  local finish = raw and string.find(raw, '|', 1, true)
  if not finish then return known end
  local at, windows = finish + 1, {}
  for name in string.gmatch(sub(raw, 1, finish - 1), '[^;]+') do
    local kind = byte(name)
    if kind == 119 then  -- w
      local total, first, last, calls, slots_n
      total, first, last, calls, slots_n, at = unpack_from('<ddddd', raw, at)
      known[name] = {total, first, last, calls, slots_n}
      windows[#windows + 1] = known[name]
    else
      local a, b
      a, b, at = unpack_from('<dd', raw, at)
      if kind == 98 then known.b = {a, b, tonumber(sub(name, 2))} else known[name] = {a, b} end
    end
  end
  for w = 1, #windows do
    local finish_ring = at + windows[w][5] * SLOT_BYTES
    windows[w].ring = sub(raw, at, finish_ring - 1)
    at = finish_ring
  end
  return known
end

local function open(raw, part)
  local layout = part.layout
  local state
  if raw and sub(raw, 1, #layout) == layout then
    state = {unpack_from(part.format, raw, #layout + 1)}
    local at = state[part.numbers + 1]
    state.rings = {}
    for l = 1, #part do
      if part[l][1] == WINDOW then
        local o = part[l][5]
        local finish = at + state[o + 4] * SLOT_BYTES
        state.rings[o] = sub(raw, at, finish - 1)
        at = finish
      end
    end
  else
    state = {rings = {}}
    local known, l = read_other(raw), 0
    for name in string.gmatch(sub(layout, 1, -2), '[^;]+') do
      l = l + 1
      local limit = part[l]
      local kind, o, old = limit[1], limit[5], known[name]
      if kind == BUCKET and known.b then
        old = known.b
        -- In another unit, whole tokens are kept.
        if old[3] ~= limit[3] then old[1] = floor(old[1] / old[3]) * limit[3] end
      elseif not old then
        if kind == BUCKET then old = {limit[2], now_ms}
        elseif kind == WINDOW then old = {0, 0, 0, 0, 0}
        else old = {0, 0} end
      end
      for n = 1, NUMBERS[kind] do state[o + n - 1] = old[n] end
      if kind == WINDOW then state.rings[o] = old.ring or '' end
    end
  end
  state.part = part
  return settle(state, part)
end

local function save(key, state)
  local part, rings = state.part, state.rings
  local raw = part.layout .. pack(part.format, unpack(state, 1, part.numbers))
  for l = 1, #part do
    if part[l][1] == WINDOW then raw = raw .. rings[part[l][5]] end
  end
  call('SET', key, raw, 'PX', part.ttl)
  state.changed = false
end

-- How long until one call more than now is admitted, in µs.
local function wait(state, limit)
  local kind, o = limit[1], limit[5]
  if kind == BUCKET then
    return (state[o + 1] + ceil((limit[3] - state[o] % limit[3]) / limit[4])) * 1000 - now
  elseif kind == QUOTA then
    return state[o + 1] - now
  end
  local total, enough = state[o], limit[2]
  if total <= enough then
    if total > 0 and enough > 0 then return state[o + 1] - now end
    return limit[3]  -- a limit of nothing: no wait helps
  end
  local ring, at = state.rings[o], 1
  for _ = 1, state[o + 4] do
    local forgotten_at, calls = unpack_from(SLOT, ring, at)
    total, at = total - calls, at + SLOT_BYTES
    if total < enough then return forgotten_at - now end
  end
  if enough > 0 then return state[o + 2] - now end
  return limit[3]
end

local function take(state, limit)
  local kind, o = limit[1], limit[5]
  if kind == BUCKET then
    state[o] = state[o] - limit[3]
    return
  end
  if kind == WINDOW then
    local forgotten_at = now - now % limit[4] + limit[4] + limit[3]
    if state[o] == 0 then
      state[o + 1], state[o + 2], state[o + 3] = forgotten_at, forgotten_at, 1
    elseif forgotten_at <= state[o + 2] then
      -- The same slot; or the clock was set back, or the slots became finer: keep the call longer, never less.
      state[o + 3] = state[o + 3] + 1
    else
      state.rings[o] = state.rings[o] .. pack(SLOT, state[o + 2], state[o + 3])
      state[o + 2], state[o + 3], state[o + 4] = forgotten_at, 1, state[o + 4] + 1
    end
  end
  state[o] = state[o] + 1
end

-- --- the batch -----------------------------------------------------------------------------------------------------

local wanted, raw_of, k = {}, {}, 0
for i = 1, requests_n do
  local specification = specifications[byte(refs, i)]
  local parts = specification.parts
  for p = 1, #parts do
    local part = parts[p]
    if #part > 0 then
      k = k + 1
      local key = KEYS[k]
      if raw_of[key] == nil then
        raw_of[key] = false
        wanted[#wanted + 1] = key
      end
    end
    if part.concurrency >= 0 then k = k + 1 end
  end
  if specification.nonce_ttl ~= '' then k = k + 1 end
end
if #wanted > 0 then
  local raws = call('MGET', unpack(wanted))
  for w = 1, #wanted do raw_of[wanted[w]] = raws[w] end
end

local states = {}
local function state_of(key, part)
  local state = states[key]
  if state then
    if state.part == part then return state end
    if state.part.layout == part.layout then  -- another route or plan with the same limits, perhaps with other numbers
      state.part = part
      return settle(state, part)
    end
    -- Two plans for one subject in one batch: the key's plan has just changed.
    if state.changed then save(key, state) end
    state = open(call('GET', key), part)
  else
    state = open(raw_of[key], part)
  end
  states[key] = state
  return state
end

local answers = {pack('<I8', now)}
k = 0
for i = 1, requests_n do
  local specification = specifications[byte(refs, i)]
  local parts = specification.parts
  local parts_n = #parts
  local held = {}
  local outcome, index, longest, overage = 0, 255, -1, 0
  local fewest, nearest, nearest_state
  local lease_key, lease_us, crowded

  for p = 1, parts_n do
    local part = parts[p]
    local limits_n = #part
    if limits_n > 0 then
      k = k + 1
      local state = state_of(KEYS[k], part)
      held[p] = state
      for l = 1, limits_n do
        local limit = part[l]
        local kind, o = limit[1], limit[5]
        local left
        if kind == BUCKET then left = floor(state[o] / limit[3]) else left = limit[2] - state[o] end
        local refuses = false
        if left < 1 then
          if kind ~= QUOTA or limit[4] == 1 then
            refuses = true
            local waiting = wait(state, limit)
            if waiting > longest then
              longest, index, outcome = waiting, part.first + l - 1, kind == QUOTA and 2 or 1
            end
          else
            overage, left = 16, 1
          end
        end
        if not refuses and (not fewest or left < fewest) then
          fewest, nearest, nearest_state = left, limit, state
          if outcome == 0 then index = part.first + l - 1 end
        end
      end
    end
    if part.concurrency >= 0 then
      k = k + 1
      lease_key, lease_us = KEYS[k], part.lease_us
      if outcome == 0 and call('ZCARD', lease_key) >= part.concurrency then
        -- Only now, so that the common case is one call: leases that ended with the worker that held them.
        call('ZREMRANGEBYSCORE', lease_key, '-inf', now)
        if call('ZCARD', lease_key) >= part.concurrency then
          crowded = specification.limits_n
        end
      end
    end
  end
  local nonce_key
  if specification.nonce_ttl ~= '' then
    k = k + 1
    nonce_key = KEYS[k]
  end

  if outcome > 0 then
    answers[i + 1] = pack('<BBI8I4', outcome, index, 0, ceil(longest / 1000000))
  elseif crowded then
    answers[i + 1] = pack('<BBI8I4', 3, crowded, 0, 1)
  elseif nonce_key and not call('SET', nonce_key, '', 'NX', 'PX', specification.nonce_ttl) then
    answers[i + 1] = pack('<BBI8I4', 4, 255, 0, 0)
  else
    if lease_key then
      call('ZADD', lease_key, now + lease_us, ARGV[3] .. ':' .. i)
      call('PEXPIRE', lease_key, floor(lease_us / 1000))
    end
    for p = 1, parts_n do
      local state, part = held[p], parts[p]
      if state then
        state.changed = true
        for l = 1, #part do take(state, part[l]) end
      end
    end
    if nearest then
      answers[i + 1] = pack('<BBI8I4', overage, index, fewest - 1, ceil(wait(nearest_state, nearest) / 1000000))
    else
      answers[i + 1] = pack('<BBI8I4', 0, 255, 0, 0)
    end
  end
end

for key, state in pairs(states) do
  if state.changed then save(key, state) end
end
return table.concat(answers)
