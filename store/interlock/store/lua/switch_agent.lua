-- Pulls or lifts an agent's kill switch.
--
-- KEYS  1 config  2 state  3 audit  4 folds
-- ARGV  1 off 1|0  2 reason  3 facts  4 backlog_cap  5 by: id of a key
-- Returns  unix ms since when it is pulled, 0 if it is not
-- Atomic because the switch and its event are one; pulled again, it keeps the time of the first pull.
--
-- include: clock
-- include: trail
local now = clock(KEYS[2])
local since = 0
if ARGV[1] == '1' then
  local was = redis.call('HMGET', KEYS[1], 'off', 'off_at')
  since = was[1] == '1' and tonumber(was[2]) or now
end
redis.call('HSET', KEYS[1], 'off', ARGV[1], 'off_reason', ARGV[1] == '1' and ARGV[2] or '', 'off_at', int(since),
  'off_by', ARGV[1] == '1' and ARGV[5] or '')
expect_export(KEYS[2], ARGV[4])
record(KEYS[2], KEYS[3], KEYS[4], now, { type = 'switch', tool = '', call = '', verdict = ARGV[1] == '1' and 'PULLED' or 'LIFTED',
  reason = ARGV[2], charged = 0, facts = ARGV[3] })
-- What was noticed of it before rests on old evidence.
if ARGV[1] ~= '1' then redis.call('HSET', KEYS[1], 'enabled_seq', redis.call('HGET', KEYS[2], 'seq')) end
return int(since)
