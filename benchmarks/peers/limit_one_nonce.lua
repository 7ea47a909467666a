-- As limit_one.lua, and the nonce of the request is taken in the same call: all or nothing.
-- KEYS: 1 the caller's hash, 2 the nonce. ARGV: 1 limit, 2 window in ms, 3 burst, 4 limit of the day, 5 seconds a nonce is kept.
-- Returns {1 allowed | 0 refused | -1 replayed, left of the window, left of the day}. O(1). Redis's clock.
if redis.call('EXISTS', KEYS[2]) == 1 then return {-1, 0, 0} end
local now = redis.call('TIME'); local t = now[1] * 1000 + math.floor(now[2] / 1000)
local lim = tonumber(ARGV[1]); local win = tonumber(ARGV[2]); local burst = tonumber(ARGV[3]); local daily = tonumber(ARGV[4])
local h = redis.call('HMGET', KEYS[1], 'w', 'c', 'p', 'tk', 'ts', 'd', 'dc')
local w = math.floor(t / win); local c = tonumber(h[2]) or 0; local p = tonumber(h[3]) or 0; local ow = tonumber(h[1]) or w
if ow ~= w then if ow == w - 1 then p = c else p = 0 end c = 0 end
local est = p * (1 - (t % win) / win) + c
local tk = tonumber(h[4]) or burst; local ts = tonumber(h[5]) or t
tk = math.min(burst, tk + (t - ts) * lim / win)
local d = math.floor(t / 86400000); local dc = tonumber(h[7]) or 0; if tonumber(h[6]) ~= d then dc = 0 end
local ok = 1
if est >= lim + burst or tk < 1 or dc >= daily then ok = 0 else c = c + 1; tk = tk - 1; dc = dc + 1 end
redis.call('HSET', KEYS[1], 'w', w, 'c', c, 'p', p, 'tk', tk, 'ts', t, 'd', d, 'dc', dc)
redis.call('PEXPIRE', KEYS[1], 86400000)
if ok == 1 then redis.call('SET', KEYS[2], '', 'EX', ARGV[5]) end
return {ok, math.floor(lim + burst - est), math.floor(daily - dc)}
