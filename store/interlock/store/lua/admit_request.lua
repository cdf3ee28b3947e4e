-- Counts one request of a namespace whose plan limits them a minute, if there is room for it.
--
-- KEYS  1 requests  2 attempt  3 state
-- ARGV  1 limit  2 once: `1` if the attempt is remembered, else this request never comes again
-- Returns  {admitted 1|0, retry_after_ms}; an attempt that was admitted stays so and counts once
-- Atomic because no two requests may both be the last one of a minute.
--
-- include: clock
local SECOND, WINDOW, ATTEMPT_TTL_MS = 1000, 60, 130000
if ARGV[2] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then return { '1', '0' } end

-- Requests by second: the running one and the 60 before it, so that no 60 seconds on end hold more than the limit.
local now = clock(KEYS[3])
local second = math.floor(now / SECOND)
local fields, used, oldest = redis.call('HGETALL', KEYS[1]), 0, second
for i = 1, #fields, 2 do
  local at = tonumber(fields[i])
  -- What a clock that was set back has left behind in its future is no request of these seconds either.
  if at < second - WINDOW or at > second then
    redis.call('HDEL', KEYS[1], fields[i])
  else
    used, oldest = used + tonumber(fields[i + 1]), math.min(oldest, at)
  end
end
if used >= tonumber(ARGV[1]) then return { '0', int((oldest + WINDOW + 1) * SECOND - now) } end
redis.call('HINCRBY', KEYS[1], int(second), 1)
redis.call('PEXPIRE', KEYS[1], (WINDOW + 2) * SECOND)
if ARGV[2] == '1' then redis.call('SET', KEYS[2], '1', 'PX', ATTEMPT_TTL_MS) end
return { '1', '0' }
