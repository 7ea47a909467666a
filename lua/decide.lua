-- Decides a batch of requests: token buckets, sliding windows, calendar quotas, concurrency and nonces.
--
-- Guarantees
--   All or nothing: a request that anything refuses leaves no trace, but in limits that charge refused calls; a used nonce
--   takes nothing of any limit.
--   A limit in shadow refuses nothing, and counts the calls that it would have let in.
--   In order: each request of the batch sees what those before it took.
--   No span of a window's length ever holds more calls than its limit; a calendar period neither (unless overage is let in).
--   Every key that is written gets its time to live here, in the same step.
--
-- KEYS  for each settlement and then each request, in order: for each part of its specification the state key (if the part has
--       limits) and the lease key (if it bounds concurrency); then the nonce key (if it has a nonce).
-- ARGV  1  one byte each, settlements first: which specification it follows, from 0
--       2  '' in production: the clock is Redis's own. Tests, and only they, send microseconds here, because a month's end
--          or a leap day can't be waited for. Whoever may send EVALSHA may write these keys anyway, so it opens nothing
--       3  the name of this batch, with the number of a request the id of its lease; '' when nothing is leased
--       4  settlements, of calls that were taken before and turned out to cost something else: for each three doubles, how much
--          more (or less, if negative), when it was taken (µs), and from when on a bucket takes nothing of it back (µs)
--       5… specifications, each (little-endian; text is preceded by its length in a byte):
--          text: life of the nonce in ms, '' without a nonce. double: what the call costs, in calls that cost 1.
--          byte: number of parts. For each part:
--            text: life of the state in ms. text: layout. text: format of its numbers. text: format of the limits.
--            byte: number of limits. double: calls under way at most, -1 for any number. double: life of a lease in µs.
--            for each limit five doubles: its kind, three of that kind, where its numbers begin in the state (from 1):
--              1 token bucket    capacity, units of a call, gain a millisecond   numbers: level (in units), at (ms)
--              2 sliding window  limit, length (µs), slot (µs)                   numbers: calls, first slot forgotten at,
--                                                                                last slot forgotten at, calls in it, slots
--                                                                                before it
--              3 quota           limit, period (1 hour, 2 day, 3 month), 1 if it refuses,    numbers: calls, ends at (µs)
--                                2 more if nobody is told how much of it is used
--          and, where one of them has any, its terms: a byte for each limit over all parts, then for each bound on calls
--          under way, the sum of: 1 in shadow; 2 refused calls are charged; 4 left as it is by settlements; 8 settlements are
--          of a call that a limit elsewhere refused: counted as such, and of a bucket no more is given back than what no
--          refill can have made up for
-- State   layout, numbers, then for each window its slots but the last, oldest first (forgotten at, calls): 12 bytes each.
--         The layout names the limits ("b600;w3600;q2;|", with an "s" behind what is in shadow): a plan that changes keeps the
--         counts of what it keeps, also of what goes into shadow or comes out of it.
-- Returns one string: the clock (µs, 8 bytes), then for each request 14 bytes:
--         outcome (0 allowed, 1 rate, 2 quota, 3 concurrency, 4 nonce used; +16 past a quota that lets in),
--         which limit (from 0 over all parts, then concurrency; 255 none): the one that refuses, of several the one with the
--         longest wait; else the one nearest to running out,
--         calls left of it (8 bytes), whole seconds until this call, or one more of cost 1, is admitted (4 bytes);
--         then, where there is any, notes of 13 bytes each: whose (2 bytes, from 0 over settlements and requests), what
--         (1 would have been refused, by a limit in shadow; 2 this much of a quota is used), which limit (as above), how
--         much (50, 80, 90, 100 %; 0 for 1), when the quota's period ends (µs, 8 bytes; 0 for 1).
-- Settled calls are counted, or given back, before the requests are decided. They are never refused: a limit may owe.
-- How much of a quota is used is told by the call that reaches it, and once more by the 1st, 2nd, 4th, 8th ... call past it:
-- an answer may be lost, and whoever hears it twice takes it for one.
-- Cost    one MGET, one SET for each subject that was let in, one SET for each nonce; two or three calls for each lease.
--         O(1) a request, but for slots that left a window since the last call (each once) and a walk over at most 242 slots
--         where a limit was lowered under its use, a dear call is refused, or a call is settled for less.
-- Clock   TIME, read once: the whole batch happens at one moment.
-- ostiary/core/limiting.py is the same arithmetic in Python; a property test holds the two together.

local call, pack, unpack_from, sub, byte = redis.call, struct.pack, struct.unpack, string.sub, string.byte
local floor, ceil = math.floor, math.ceil
local BUCKET, WINDOW, QUOTA = 1, 2, 3
local NUMBERS = {2, 5, 2}  -- how many numbers a limit keeps
local SLOT, SLOT_BYTES = '<dI4', 12
local STRIDE = 5           -- numbers that describe a limit: kind, three of its kind, where its own numbers begin

local now
if ARGV[2] == '' then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[2])
end
local now_ms = floor(now / 1000)

-- --- specifications ------------------------------------------------------------------------------------------------
-- Tables are made in one go where that is possible: Lua sizes a table anew each time it outgrows itself.

local specifications = {}
for i = 5, #ARGV do
  local text = ARGV[i]
  local nonce_ttl, cost, parts_n, at = unpack_from('<Bc0dB', text)
  local parts, first, leases_n = {false}, 0, 0
  for p = 1, parts_n do
    local ttl, layout, state_format, limits_format, limits_n, concurrency, lease_us
    ttl, layout, state_format, limits_format, limits_n, concurrency, lease_us, at =
      unpack_from('<Bc0Bc0Bc0Bc0Bdd', text, at)
    local limits = {unpack_from(limits_format, text, at)}
    at = limits[limits_n * STRIDE + 1]
    parts[p] = {
      ttl = ttl, layout = layout, format = state_format, limits = limits, limits_n = limits_n, first = first,
      numbers_n = (#state_format - 1), concurrency = concurrency, lease_us = lease_us, lease = leases_n,
    }
    first = first + limits_n
    if concurrency >= 0 then leases_n = leases_n + 1 end
  end
  local specification = {nonce_ttl = nonce_ttl, cost = cost, parts = parts, parts_n = parts_n, limits_n = first}
  if at <= #text then
    -- Sets of places (of a limit from 0 over all parts, then of bounds on calls under way), by what they are for; nil where no
    -- limit is. `free` is the opposite of `charged`. All that is rare stands in line, where it is needed: a function costs
    -- every batch that does not call it.
    local shadow, free = {}, {}
    for place = 0, #text - at do
      local bits = byte(text, at + place)
      if bits % 2 == 1 then shadow[place] = true end
      if floor(bits / 2) % 2 == 1 then
        specification.charged = specification.charged or {}
        specification.charged[place] = true
      else
        free[place] = true
      end
      if floor(bits / 4) % 2 == 1 then
        specification.without = specification.without or {}
        specification.without[place] = true
      end
      if bits >= 8 then specification.crossing = true end
    end
    specification.shadow, specification.free, specification.terms = shadow, free, true
  end
  specifications[i - 5] = specification
end

-- --- the calendar --------------------------------------------------------------------------------------------------

local function period_end(period, moment)
  if period == 1 then return moment - moment % 3600000000 + 3600000000 end
  local days = floor(moment / 86400000000)
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
-- `numbers` are those of its limits one after the other, `rings` the slots of each window by where its numbers begin. A state
-- is read once a batch and settled at once, because the whole batch has one moment.

local function settle(state, part)
  local numbers, limits = state.numbers, part.limits
  for l = 1, part.limits_n * STRIDE, STRIDE do
    local kind, o = limits[l], limits[l + 4]
    if kind == BUCKET then
      local elapsed, level, capacity = now_ms - numbers[o + 1], numbers[o], limits[l + 1]
      if elapsed > 0 then  -- a clock set back gives nothing and takes nothing
        level = level + elapsed * limits[l + 3]
        numbers[o + 1] = now_ms
      end
      numbers[o] = level < capacity and level or capacity
    elseif kind == QUOTA then
      if now >= numbers[o + 1] then numbers[o], numbers[o + 1] = 0, period_end(limits[l + 2], now) end
    elseif numbers[o] > 0 and numbers[o + 1] <= now then
      local ring, total, slots_n, at, first = state.rings[o], numbers[o], numbers[o + 4], 1, nil
      while slots_n > 0 do
        local forgotten_at, calls = unpack_from(SLOT, ring, at)
        if forgotten_at > now then first = forgotten_at break end
        total, slots_n, at = total - calls, slots_n - 1, at + SLOT_BYTES
      end
      if not first then
        first = numbers[o + 2]
        if first <= now then total, first, numbers[o + 3] = 0, 0, 0 end
      end
      numbers[o], numbers[o + 1], numbers[o + 4] = total, first, slots_n
      state.rings[o] = sub(ring, at)
    end
  end
end

-- A state of another layout: its limits by name ("w3600", "q2s"; "b" and "bs" for the buckets, with the cost of a call they
-- were counted in), each with its numbers and slots.
local function read_other(raw)
  local known = {}
  local finish = raw and string.find(raw, '|', 1, true)
  if not finish then return known end
  local at, windows = finish + 1, {}
  for name in string.gmatch(sub(raw, 1, finish - 1), '[^;]+') do
    local kind = sub(name, 1, 1)
    if kind == 'w' then
      local total, first, last, calls, slots_n
      total, first, last, calls, slots_n, at = unpack_from('<ddddd', raw, at)
      known[name] = {total, first, last, calls, slots_n}
      windows[#windows + 1] = known[name]
    else
      local a, b
      a, b, at = unpack_from('<dd', raw, at)
      if kind == 'b' then
        known[sub(name, -1) == 's' and 'bs' or 'b'] = {a, b, tonumber(string.match(name, '%d+'))}
      else
        known[name] = {a, b}
      end
    end
  end
  for w = 1, #windows do
    local finish_ring = at + windows[w][5] * SLOT_BYTES
    windows[w].ring = sub(raw, at, finish_ring - 1)
    at = finish_ring
  end
  return known
end

local function save(state)
  local part, numbers = state.part, state.numbers
  local limits, ttl = part.limits, part.ttl
  local raw = part.layout .. pack(part.format, unpack(numbers, 1, part.numbers_n))
  for l = 1, part.limits_n * STRIDE, STRIDE do
    local kind = limits[l]
    if kind == WINDOW then
      raw = raw .. state.rings[limits[l + 4]]
    elseif kind == BUCKET and numbers[limits[l + 4]] < 0 then  -- what is owed is remembered until it is paid
      ttl = math.max(ttl, part.ttl + ceil(-numbers[limits[l + 4]] / limits[l + 3]))
    end
  end
  call('SET', state.key, raw, 'PX', ttl)
  state.changed = false
end

-- Makes `state` one of `part`, as of now.
local function hold(state, part)
  local layout, limits, raw, rings = part.layout, part.limits, state.raw, {}
  if state.part then
    if state.part.layout == layout then  -- another plan or route with the same limits, maybe other numbers
      state.part = part
      settle(state, part)
      return
    end
    -- Two plans for one subject in one batch: its plan has just changed.
    if state.changed then save(state) end
    raw = call('GET', state.key)
  end
  state.part, state.rings = part, rings
  if raw and sub(raw, 1, #layout) == layout then
    local numbers = {unpack_from(part.format, raw, #layout + 1)}
    state.numbers = numbers
    local at = numbers[part.numbers_n + 1]
    for l = 1, part.limits_n * STRIDE, STRIDE do
      if limits[l] == WINDOW then
        local o = limits[l + 4]
        local finish = at + numbers[o + 4] * SLOT_BYTES
        rings[o] = sub(raw, at, finish - 1)
        at = finish
      end
    end
  else
    local known, numbers, l = read_other(raw), {}, 1
    state.numbers = numbers
    for name in string.gmatch(sub(layout, 1, -2), '[^;]+') do
      local kind, o, in_shadow = limits[l], limits[l + 4], sub(name, -1) == 's'
      local bare = in_shadow and sub(name, 1, -2) or name
      if kind == BUCKET then bare = 'b' end
      -- What goes into shadow, or comes out of it, keeps its count.
      local old = known[in_shadow and bare .. 's' or bare] or known[in_shadow and bare or bare .. 's']
      if kind == BUCKET then
        old = old or {limits[l + 1], now_ms, limits[l + 2]}
        -- In another unit, whole tokens are kept.
        if old[3] ~= limits[l + 2] then old = {floor(old[1] / old[3]) * limits[l + 2], old[2]} end
      end
      for n = 1, NUMBERS[kind] do numbers[o + n - 1] = old and old[n] or 0 end
      if kind == WINDOW then rings[o] = old and old.ring or '' end
      l = l + STRIDE
    end
  end
  settle(state, part)
end

-- How long until `wanted` calls, which is more than are left now, are left of the limit at `l`, in µs.
local function wait(state, limits, l, wanted)
  local kind, numbers, o = limits[l], state.numbers, limits[l + 4]
  if kind == BUCKET then
    return (numbers[o + 1] + ceil((wanted * limits[l + 2] - numbers[o]) / limits[l + 3])) * 1000 - now
  elseif kind == QUOTA then
    return numbers[o + 1] - now
  end
  local total, enough = numbers[o], limits[l + 1] - wanted
  if enough < 0 then return limits[l + 2] end  -- more than the limit: no wait helps
  if total - enough == 1 then return numbers[o + 1] - now end
  local ring, at = state.rings[o], 1
  for _ = 1, numbers[o + 4] do
    local forgotten_at, calls = unpack_from(SLOT, ring, at)
    total, at = total - calls, at + SLOT_BYTES
    if total <= enough then return forgotten_at - now end
  end
  return numbers[o + 2] - now
end

-- Counts `calls`, at least 1, in every limit of the state but those whose places are in `except`. `unasked`: nobody asked
-- whether there is room; 1 for a call that was let in; 2 for one that was not, of which a bucket owes at most its burst: whoever
-- stops calling is let in again after the time that two bursts take. `i` is the settlement or request that it is for, from 1.
local function take(state, part, calls, unasked, except, i)
  local numbers, limits = state.numbers, part.limits
  for l = 1, part.limits_n * STRIDE, STRIDE do
    local kind, o = limits[l], limits[l + 4]
    if except and except[part.first + (l - 1) / STRIDE] then
      -- left as it is
    elseif kind == BUCKET then
      local level = numbers[o] - calls * limits[l + 2]
      if unasked == 1 then
        level = math.max(level, -4503599627370496)  -- DEBT_MAX in core/limiting.py
      elseif unasked == 2 then
        level = math.max(level, math.min(numbers[o], -limits[l + 1]))
      end
      numbers[o] = level
    elseif kind == QUOTA then
      local after = numbers[o] + calls
      numbers[o] = after
      if after * 2 >= limits[l + 1] and limits[l + 3] < 2 then
        -- How much is to be told; `past` and `was` are how far the share is passed, and was before.
        for _, share in ipairs({100, 90, 80, 50}) do  -- QUOTA_SHARES in core/limiting.py
          local past = after - ceil(limits[l + 1] * share / 100)
          if past >= 0 then
            local was = past - calls
            local _, power = math.frexp(past)
            local _, power_was = math.frexp(math.max(was, 0))
            if was < 0 or power ~= power_was then
              state.notes = (state.notes or '')
                .. pack('<I2BBBI8', i - 1, 2, part.first + (l - 1) / STRIDE, share, numbers[o + 1])
            end
            break
          end
        end
      end
    else
      local slot = limits[l + 3]
      if unasked then slot = math.max(slot, ceil(limits[l + 2] / 120)) end  -- WINDOW_SLOTS in core/limiting.py
      local forgotten_at = now - now % slot + slot + limits[l + 2]
      if numbers[o] == 0 then
        numbers[o + 1], numbers[o + 2], numbers[o + 3] = forgotten_at, forgotten_at, calls
      elseif forgotten_at <= numbers[o + 2] then
        -- The same slot; or the clock was set back, or the slots became finer: keep the call longer, never less.
        numbers[o + 3] = numbers[o + 3] + calls
      else
        while numbers[o + 3] > 4294967295 do  -- more than a slot's four bytes hold
          state.rings[o] = state.rings[o] .. pack(SLOT, numbers[o + 2], 4294967295)
          numbers[o + 3], numbers[o + 4] = numbers[o + 3] - 4294967295, numbers[o + 4] + 1
        end
        state.rings[o] = state.rings[o] .. pack(SLOT, numbers[o + 2], numbers[o + 3])
        numbers[o + 2], numbers[o + 3], numbers[o + 4] = forgotten_at, calls, numbers[o + 4] + 1
      end
      numbers[o] = numbers[o] + calls
    end
  end
end

-- --- the batch -----------------------------------------------------------------------------------------------------

local refs = ARGV[1]
local requests_n = #refs

-- One read for all states. `states` by name; `state_at` by the place of their name in KEYS.
local states, state_at, wanted, wanted_n, k = {}, {}, {}, 0, 0
for i = 1, requests_n do
  local specification = specifications[byte(refs, i)]
  local parts = specification.parts
  for p = 1, specification.parts_n do
    local part = parts[p]
    if part.limits_n > 0 then
      k = k + 1
      local key = KEYS[k]
      local state = states[key]
      if not state then
        state = {key = key, part = false, numbers = false, rings = false, changed = false, raw = false}
        states[key] = state
        wanted_n = wanted_n + 1
        wanted[wanted_n] = key
      end
      state_at[k] = state
    end
    if part.concurrency >= 0 then k = k + 1 state_at[k] = false end
  end
  if specification.nonce_ttl ~= '' then k = k + 1 state_at[k] = false end
end
if wanted_n > 0 then
  local raws = call('MGET', unpack(wanted))
  for w = 1, wanted_n do states[wanted[w]].raw = raws[w] end
end

k = 0
local settled_n = #ARGV[4] / 24
if settled_n > 0 then
  local min, max = math.min, math.max

  -- Takes `calls` out of the slot of the window at `o` that is forgotten at `forgotten_at`, as far as they are there; a slot
  -- that is empty then is no more.
  local function take_out(state, o, calls, forgotten_at)
    local numbers, ring = state.numbers, state.rings[o]
    if numbers[o] == 0 then return end
    if numbers[o + 2] == forgotten_at then
      calls = min(calls, numbers[o + 3])
      numbers[o], numbers[o + 3] = numbers[o] - calls, numbers[o + 3] - calls
      if numbers[o + 3] == 0 then
        if numbers[o + 4] > 0 then
          local cut = #ring - SLOT_BYTES
          numbers[o + 2], numbers[o + 3] = unpack_from(SLOT, ring, cut + 1)
          numbers[o + 4], state.rings[o] = numbers[o + 4] - 1, sub(ring, 1, cut)
        else
          numbers[o + 1], numbers[o + 2] = 0, 0
        end
      end
      return
    end
    for at = #ring - SLOT_BYTES + 1, 1, -SLOT_BYTES do
      local slot_at, in_slot = unpack_from(SLOT, ring, at)
      if slot_at <= forgotten_at then
        if slot_at < forgotten_at then return end
        calls = min(calls, in_slot)
        local kept = calls < in_slot and pack(SLOT, slot_at, in_slot - calls) or ''
        ring = sub(ring, 1, at - 1) .. kept .. sub(ring, at + SLOT_BYTES)
        numbers[o], state.rings[o] = numbers[o] - calls, ring
        if kept == '' then
          numbers[o + 4] = numbers[o + 4] - 1
          if at == 1 then numbers[o + 1] = numbers[o + 4] > 0 and unpack_from(SLOT, ring) or numbers[o + 2] end
        end
        return
      end
    end
  end

  -- Takes back what a call was charged too much at the moment `taken_at`, as far as that still counts. `crossing`: of a
  -- bucket no more than what refill can't have made up for since. It may have been full without the call, and every unit
  -- that would have run over was gained since then. And nothing from `ends_at` on: what a bucket's slice has left is worth
  -- nothing after its slot, because room for it is kept free no longer (core/slicing.py).
  local function give_back(state, part, calls, taken_at, ends_at, except, crossing)
    local numbers, limits = state.numbers, part.limits
    for l = 1, part.limits_n * STRIDE, STRIDE do
      local kind, o = limits[l], limits[l + 4]
      if except and except[part.first + (l - 1) / STRIDE] then
        -- left as it is
      elseif kind == BUCKET then
        local units = calls * limits[l + 2]
        if crossing then units = max(0, units - max(0, now_ms - floor(taken_at / 1000)) * limits[l + 3]) end
        if now < ends_at then numbers[o] = min(limits[l + 1], numbers[o] + units) end
      elseif kind == QUOTA then
        if period_end(limits[l + 2], taken_at) == numbers[o + 1] then numbers[o] = max(0, numbers[o] - calls) end
      else
        local slot = limits[l + 3]
        take_out(state, o, calls, taken_at - taken_at % slot + slot + limits[l + 2])
      end
    end
  end

  for i = 1, settled_n do
    local specification = specifications[byte(refs, i)]
    local difference, taken_at, ends_at = unpack_from('<ddd', ARGV[4], i * 24 - 23)
    for p = 1, specification.parts_n do
      local part = specification.parts[p]
      if part.limits_n > 0 then
        k = k + 1
        local state = state_at[k]
        if state.part ~= part then hold(state, part) end
        if difference > 0 then
          take(state, part, difference, specification.crossing and 2 or 1, specification.without, i)
        else
          give_back(state, part, -difference, taken_at, ends_at, specification.without, specification.crossing)
        end
        state.changed = true
      end
      if part.concurrency >= 0 then k = k + 1 end
    end
  end
end

local answers, notes = {pack('<I8', now)}, nil
for i = settled_n + 1, requests_n do
  local specification = specifications[byte(refs, i)]
  local parts, parts_n, cost = specification.parts, specification.parts_n, specification.cost
  local terms, skipped = specification.terms, nil  -- `skipped`: places of limits in shadow that would have refused
  local shadow = terms and specification.shadow
  local held = {false}
  local outcome, index, longest, remaining, overage = 0, 255, -1, 0, 0
  local fewest, nearest, nearest_part, nearest_state
  local leases_n, crowded, before, lease_at, lease_part = 0, nil, k, nil, nil

  for p = 1, parts_n do
    local part = parts[p]
    if part.limits_n > 0 then
      k = k + 1
      local state = state_at[k]
      held[p] = state
      if state.part ~= part then hold(state, part) end
      local limits, numbers = part.limits, state.numbers
      for l = 1, part.limits_n * STRIDE, STRIDE do
        local kind, left = limits[l], nil
        if kind == BUCKET then
          left = floor(numbers[limits[l + 4]] / limits[l + 2])
        else
          left = limits[l + 1] - numbers[limits[l + 4]]
        end
        if left < cost then
          if shadow and shadow[part.first + (l - 1) / STRIDE] then
            if kind ~= QUOTA or limits[l + 3] ~= 2 then
              skipped = skipped or {}
              skipped[part.first + (l - 1) / STRIDE] = true
            end
          elseif kind == QUOTA and limits[l + 3] == 0 then
            overage, left = 16, cost
          else
            local waiting = wait(state, limits, l, cost)
            if waiting > longest then
              longest, index, outcome = waiting, part.first + (l - 1) / STRIDE, kind == QUOTA and 2 or 1
              remaining = left > 0 and left or 0
            end
          end
        end
        if left >= cost and (not fewest or left < fewest)
            and not (shadow and shadow[part.first + (l - 1) / STRIDE]) then
          fewest, nearest, nearest_part, nearest_state = left, l, part, state
        end
      end
    end
    if part.concurrency >= 0 then
      k = k + 1
      leases_n, lease_at, lease_part = leases_n + 1, k, part
      if outcome == 0 and not crowded and call('ZCARD', KEYS[k]) >= part.concurrency then
        -- Only now, so that the common case is one call: leases that ended with the worker that held them.
        call('ZREMRANGEBYSCORE', KEYS[k], '-inf', now)
        if call('ZCARD', KEYS[k]) >= part.concurrency then
          local place = specification.limits_n + part.lease
          if shadow and shadow[place] then
            skipped = skipped or {}
            skipped[place] = true
          else
            crowded = place
          end
        end
      end
    end
  end
  local nonce_key
  if specification.nonce_ttl ~= '' then
    k = k + 1
    nonce_key = KEYS[k]
  end

  if terms and specification.charged and (outcome > 0 or crowded) and cost > 0 then
    local refused = outcome > 0
    outcome, index, longest, remaining = 0, 255, -1, 0
    for p = 1, parts_n do
      local part, state = parts[p], held[p]
      for l = 1, part.limits_n * STRIDE, STRIDE do
        if specification.charged[part.first + (l - 1) / STRIDE] and not state.charged then
          take(state, part, cost, 2, specification.free, i)
          state.changed, state.charged = true, true
        end
      end
      if state then state.charged = nil end
    end
    -- How the same call would stand now, as above: what a client is told to wait must suffice.
    for p = 1, refused and parts_n or 0 do
      local part, state = parts[p], held[p]
      for l = 1, part.limits_n * STRIDE, STRIDE do
        local limits, kind, place = part.limits, part.limits[l], part.first + (l - 1) / STRIDE
        local left
        if kind == BUCKET then
          left = floor(state.numbers[limits[l + 4]] / limits[l + 2])
        else
          left = limits[l + 1] - state.numbers[limits[l + 4]]
        end
        if left < cost and not shadow[place] and not (kind == QUOTA and limits[l + 3] == 0) then
          local waiting = wait(state, limits, l, cost)
          if waiting > longest then
            longest, index, outcome, remaining = waiting, place, kind == QUOTA and 2 or 1, left > 0 and left or 0
          end
        end
      end
    end
  end
  if outcome > 0 then
    answers[i - settled_n + 1] = pack('<BBI8I4', outcome, index, remaining, ceil(longest / 1000000))
  elseif crowded then
    answers[i - settled_n + 1] = pack('<BBI8I4', 3, crowded, 0, 1)
  elseif nonce_key and not call('SET', nonce_key, '', 'NX', 'PX', specification.nonce_ttl) then
    answers[i - settled_n + 1] = pack('<BBI8I4', 4, 255, 0, 0)
  else
    if leases_n == 1 and not skipped then  -- the usual case, without a look for the others
      call('ZADD', KEYS[lease_at], now + lease_part.lease_us, ARGV[3] .. ':' .. (i - settled_n))
      call('PEXPIRE', KEYS[lease_at], floor(lease_part.lease_us / 1000))
    elseif leases_n > 0 then
      local at = before
      for p = 1, parts_n do
        local part = parts[p]
        if part.limits_n > 0 then at = at + 1 end
        if part.concurrency >= 0 then
          at = at + 1
          if not (skipped and skipped[specification.limits_n + part.lease]) then
            call('ZADD', KEYS[at], now + part.lease_us, ARGV[3] .. ':' .. (i - settled_n))
            call('PEXPIRE', KEYS[at], floor(part.lease_us / 1000))
          end
        end
      end
    end
    if cost > 0 then
      for p = 1, parts_n do
        local state = held[p]
        if state then
          state.changed = true
          take(state, parts[p], cost, nil, skipped, i)
        end
      end
    end
    if skipped then
      notes = notes or {}
      local others = {}
      for place = 0, specification.limits_n + leases_n - 1 do
        if skipped[place] then notes[#notes + 1] = pack('<I2BBBI8', i - 1, 1, place, 0, 0) end
        if not (skipped[place] and specification.charged and specification.charged[place]) then others[place] = true end
      end
      for p = 1, (specification.charged and cost > 0) and parts_n or 0 do
        if held[p] then take(held[p], parts[p], cost, 2, others, i) end
      end
    end
    if nearest then
      local left = fewest - cost
      answers[i - settled_n + 1] = pack('<BBI8I4', overage, nearest_part.first + (nearest - 1) / STRIDE, left,
                            ceil(wait(nearest_state, nearest_part.limits, nearest, left + 1) / 1000000))
    else
      answers[i - settled_n + 1] = pack('<BBI8I4', 0, 255, 0, 0)
    end
  end
end

for _, state in pairs(states) do
  if state.changed then save(state) end
  if state.notes then
    notes = notes or {}
    notes[#notes + 1] = state.notes
  end
end
if notes then answers[#answers + 1] = table.concat(notes) end
return table.concat(answers)
