-- Whole numbers as Redis wants them: Lua prints 1e14 and above in scientific notation.
local function int(n) return string.format('%.0f', n) end

-- Redis time in unix ms.
local function wall_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The same, but not running backwards for this agent when a clock is set or a replica with a slower one takes over. A
-- clock that was ahead by more than this was wrong, and is not waited for: counters are kept by time, so going back only
-- counts on where they were.
local MAX_AHEAD_MS = 300000

local function clock(state)
  local now = wall_ms()
  local last = tonumber(redis.call('HGET', state, 'clock') or 0)
  if now < last and last - now <= MAX_AHEAD_MS then return last end
  redis.call('HSET', state, 'clock', int(now))
  return now
end
