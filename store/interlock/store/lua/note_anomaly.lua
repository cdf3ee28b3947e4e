-- Records an anomaly in its agent's trail, raises the agent's risk and, if asked to, pulls its kill switch.
--
-- KEYS  1 config  2 state  3 audit  4 folds  5 anomalies
-- ARGV  1 subject  2 tool  3 kind  4 facts  5 evidence: the last seq it rests on  6 quiet_ms  7 risk  8 risk_ms
--       9 disable 1|0  10 switch_reason  11 backlog_cap
-- Returns  1, or 0 if one of that subject was noted lately, or the agent was enabled since (nothing is written)
-- Atomic because the event, the risk and the switch are one; because an agent that was enabled again must not be
-- disabled on old evidence; and because it may be asked for twice.
--
-- include: clock
-- include: trail
local config, state, audit, folds, anomalies = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local evidence, risk_ms = tonumber(ARGV[5]), tonumber(ARGV[8])
local RANKS = { low = 1, medium = 2, high = 3 }
local ANOMALIES_TTL_MS = 8 * 86400000

local now = clock(state)
local off, enabled_seq, risk, risk_until = unpack(redis.call('HMGET', config, 'off', 'enabled_seq', 'risk', 'risk_until'))
enabled_seq = tonumber(enabled_seq or 0)
if evidence <= enabled_seq then return 0 end
local noted_seq, noted_at = string.match(redis.call('HGET', anomalies, ARGV[1]) or '', '^(%d+):(%d+)$')
noted_seq = tonumber(noted_seq or 0)
if evidence <= noted_seq then return 0 end
if noted_seq > enabled_seq and now - tonumber(noted_at) < tonumber(ARGV[6]) then return 0 end

redis.call('HSET', anomalies, ARGV[1], int(evidence) .. ':' .. int(now))
redis.call('PEXPIRE', anomalies, ANOMALIES_TTL_MS)
expect_export(state, ARGV[11])
local function append_event(type, verdict, reason)
  record(state, audit, folds, now, { type = type, tool = type == 'anomaly' and ARGV[2] or '', call = '',
    verdict = verdict, reason = reason, charged = 0, facts = ARGV[4] })
end
append_event('anomaly', string.upper(ARGV[7]), ARGV[3])

if risk_ms > 0 then
  local lasting = risk and tonumber(risk_until) > now and RANKS[risk] or 0
  if lasting > RANKS[ARGV[7]] then ARGV[7] = risk end
  redis.call('HSET', config, 'risk', ARGV[7], 'risk_until', int(now + risk_ms))
  -- What engines remember of an agent's policy holds for its risk, too: they learn both anew.
  redis.call('HINCRBY', config, 'version', 1)
end
if ARGV[9] == '1' and off ~= '1' then
  redis.call('HSET', config, 'off', '1', 'off_reason', ARGV[10], 'off_at', int(now), 'off_by', 'anomaly')
  append_event('switch', 'PULLED', ARGV[10])
end
return 1
