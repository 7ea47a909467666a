-- wrk: sends ready-made requests and reports the outcome as one line of JSON.
--   wrk ... -s load.lua URL -- unchanging FILE BYTES [MS]    the one request of FILE, over and over
--   wrk ... -s load.lua URL -- stream FILE BYTES [MS]        the requests of FILE in turn, BYTES each, none twice
-- With MS each connection waits before each request: at random, exponentially distributed, MS milliseconds on average. Requests
-- of many such connections come as those of independent callers do, at a rate that the server does not set.
-- One thread only: each would read FILE from its start.
local file, request_bytes

function init(args)
  local kind, path = args[1], args[2]
  request_bytes = tonumber(args[3])
  file = assert(io.open(path, "rb"))
  file:setvbuf("full", 1048576)
  if kind == "unchanging" then
    local bytes = file:read(request_bytes)
    wrk.format = function() return bytes end -- wrk asks this once, and sends the same bytes from then on
  else
    -- A global of this name is what tells wrk that each request is another. Past the end of the file the connection gets a
    -- line that no server takes for a request: the run then counts as broken, not as one of replays.
    request = function() return file:read(request_bytes) or "\r\n\r\n" end
  end
  local think_ms = tonumber(args[4])
  if think_ms then
    -- wrk takes whole milliseconds; rounding at random keeps the average.
    delay = function() return math.floor(-math.log(1 - math.random()) * think_ms + math.random()) end
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "refused": %d, "broken": %d, ' ..
    '"latency_p50_us": %d, "latency_p99_us": %d}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
