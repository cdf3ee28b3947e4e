-- Whole numbers as Redis wants them: Lua prints 1e14 and above in scientific notation.
local function int(n) return string.format('%.0f', n) end

-- Redis time in ms that never runs backwards for this agent, over a fail-over or a changed clock either.
local function clock(state)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local last = tonumber(redis.call('HGET', state, 'clock') or 0)
  if now < last then return last end
  redis.call('HSET', state, 'clock', int(now))
  return now
end
