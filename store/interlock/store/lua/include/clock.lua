-- Whole numbers as Redis wants them: Lua prints 1e14 and above in scientific notation.
local function int(n) return string.format('%.0f', n) end

-- Redis time in unix ms.
local function wall_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The same, but never running backwards for this agent, over a fail-over or a changed clock either.
local function clock(state)
  local now = wall_ms()
  local last = tonumber(redis.call('HGET', state, 'clock') or 0)
  if now < last then return last end
  redis.call('HSET', state, 'clock', int(now))
  return now
end
