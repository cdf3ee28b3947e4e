-- Counters by minute, hour and UTC day, each a hash of "<bucket>:<what>" with what = a (actions), b (refused),
-- s (spend, micro-USD) or t:<tool>; `days` has the actions of each UTC month beside, as "m:<YYYY-MM>", and `minutes` the
-- sum of a over the running minute and the 60 before, as "total". Of replays only the days are counted, as d.
local MINUTE, HOUR, DAY = 60000, 3600000, 86400000
local KEEP = { [MINUTE] = 60, [HOUR] = 168, [DAY] = 7 }

local function bucket(at, unit) return math.floor(at / unit) end

-- Begins a new bucket and drops those out of the window. Returns nil if there was none to begin, else the last seq
-- (noted as "<hour>:seq" by roll) of the time before the window, or 0.
local function begin(key, unit, now)
  local current = bucket(now, unit)
  if redis.call('HGET', key, 'at') == int(current) then return nil end
  local total, last_seq = 0, 0
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local at, what = string.match(fields[i], '^(%d+):(.*)$')
    local value = tonumber(fields[i + 1])
    if what == 'seq' and tonumber(at) <= current - KEEP[unit] then last_seq = math.max(last_seq, value) end
    local past = unit == DAY and string.match(fields[i], '^m:(.*)$')
    if at and tonumber(at) < current - KEEP[unit] or past and past < month_of(now - 62 * DAY) then
      redis.call('HDEL', key, fields[i])
    elseif what == 'a' then
      total = total + value
    end
  end
  redis.call('HSET', key, 'at', int(current))
  if unit == MINUTE then redis.call('HSET', key, 'total', int(total)) end
  redis.call('PEXPIRE', key, (KEEP[unit] + 24) * unit)
  return last_seq
end

-- Brings all three up to date. Once an hour it also trims the trail to the events of the last 168 hours, unless (`cap` is
-- not -1) that is the exporter's, which trims behind itself.
-- All three are brought there together, so in a minute that was begun there is nothing to do.
local function roll(windows, state, audit, now, cap)
  if not begin(windows.minutes, MINUTE, now) then return end
  begin(windows.days, DAY, now)
  local last_seq = begin(windows.hours, HOUR, now)
  if not last_seq then return end
  expect_export(state, cap)
  redis.call('HSET', windows.hours, int(bucket(now, HOUR)) .. ':seq', redis.call('HGET', state, 'seq') or '0')
  if last_seq > 0 and tonumber(cap) < 0 then redis.call('XTRIM', audit, 'MINID', int(last_seq + 1)) end
end

-- Adds to the buckets of the time `at`; a bucket that has left its window is not called back.
local function add(windows, now, at, what, by)
  for unit, key in pairs({ [MINUTE] = windows.minutes, [HOUR] = windows.hours, [DAY] = windows.days }) do
    if bucket(at, unit) >= bucket(now, unit) - KEEP[unit] then
      redis.call('HINCRBY', key, int(bucket(at, unit)) .. ':' .. what, int(by))
      if what == 'a' and unit == MINUTE then redis.call('HINCRBY', key, 'total', int(by)) end
    end
  end
end

-- Counts what was decided in a UTC month beside its actions, as "m:<YYYY-MM>:<what>": b (refused) or r (replayed).
local function count_in_month(windows, at, what, by)
  redis.call('HINCRBY', windows.days, 'm:' .. month_of(at) .. ':' .. what, by)
end

-- Counts a decision that reserves nothing, or with a `by` of -1 no longer counts it.
local function count_unreserved(windows, now, at, verdict, by)
  if verdict == 'REPLAY' then
    count_in_month(windows, at, 'r', by)
    redis.call('HINCRBY', windows.days, int(bucket(at, DAY)) .. ':d', by)
  else
    add(windows, now, at, 'b', by)
    count_in_month(windows, at, 'b', by)
  end
end

-- Charges (or, with negative numbers, refunds) actions and spend to the buckets of the time `at`.
local function tally(windows, now, at, tool, actions, spend)
  if actions ~= 0 then
    add(windows, now, at, 'a', actions)
    add(windows, now, at, 't:' .. tool, actions)
    redis.call('HINCRBY', windows.days, 'm:' .. month_of(at), int(actions))
  end
  if spend ~= 0 then add(windows, now, at, 's', spend) end
end
