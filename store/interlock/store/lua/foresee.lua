-- Says what `authorize` would decide of a call now. Writes nothing.
--
-- KEYS  1 config  2 call  3 minutes  4 days  5 state
-- ARGV  1 tool  2 switch_reason  3 rule_reason  4 quota_reason  5 cost  6 max_actions  7 max_tool_calls  8 max_spend
--       9 actions: assumed to be used beside what is  10 tool_calls  11 spend  12 backlog_cap
-- Returns  {verdict, reason, what it would charge, version of the agent's policy}
-- Atomic because the switch, the key and the budgets are those of one moment.
--
-- include: clock
-- include: month
-- include: windows
local config, call, minutes, days = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local cost, max_actions, max_tool_calls = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local max_spend, now = tonumber(ARGV[8]), wall_ms()
local version, off = unpack(redis.call('HMGET', config, 'version', 'off'))
local function word(verdict, reason, charged) return { verdict, reason, int(charged or 0), version or '0' } end
local function blocked(reason) return word('BLOCKED', reason) end

-- The actions of the running minute and the 60 before, also where nobody has begun this minute yet.
local function actions_in_hour()
  local total, oldest, counters = 0, bucket(now, MINUTE) - KEEP[MINUTE], redis.call('HGETALL', minutes)
  for i = 1, #counters, 2 do
    local at = string.match(counters[i], '^(%d+):a$')
    if at and tonumber(at) >= oldest then total = total + tonumber(counters[i + 1]) end
  end
  return total
end

if ARGV[2] ~= '' then return blocked(ARGV[2]) end
if off == '1' then return blocked('agent_disabled') end
if ARGV[3] ~= '' then return blocked(ARGV[3]) end
local state, lease_until, hold, charged, ambiguous = unpack(redis.call('HMGET', call, 'state', 'lease_until', 'hold',
  'charged', 'ambiguous'))
if state == 'succeeded' then return word('REPLAY', 'tool_idempotency') end
if state == 'in_flight' and tonumber(lease_until) > now then return word('IN_FLIGHT', 'in_flight') end
if state == 'unknown' or (state == 'in_flight' and hold == '1') then return word('UNKNOWN', 'outcome_unknown') end
if ARGV[4] ~= '' then return blocked(ARGV[4]) end
if max_actions >= 0 and actions_in_hour() + tonumber(ARGV[9]) >= max_actions then
  return blocked('max_actions_per_hour_exceeded')
end
local today = int(bucket(now, DAY))
local calls, spent = unpack(redis.call('HMGET', days, today .. ':t:' .. ARGV[1], today .. ':s'))
if max_tool_calls >= 0 and tonumber(calls or 0) + tonumber(ARGV[10]) >= max_tool_calls then
  return blocked('max_calls_per_tool_exceeded')
end
local tried = state == 'in_flight' or (state == 'open' and ambiguous == '1')
local due = math.max(0, cost - (tried and tonumber(charged) or 0))
if max_spend >= 0 and due > 0 and tonumber(spent or 0) + tonumber(ARGV[11]) + due > max_spend then
  return blocked('max_spend_usd_per_day_exceeded')
end
local seq, exported = unpack(redis.call('HMGET', KEYS[5], 'seq', 'exported'))
local backlog_cap = tonumber(ARGV[12])
if backlog_cap >= 0 and exported and tonumber(seq or 0) - tonumber(exported) >= backlog_cap then
  return blocked('audit_backlog')
end
return word('EXECUTE', 'ok', due)
