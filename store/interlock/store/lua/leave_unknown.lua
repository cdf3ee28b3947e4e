-- Records that nobody is asked any more what became of a call: from now on it is an operator's.
--
-- KEYS  1 state  2 call  3 audit  4 folds
-- ARGV  1 call_id  2 fence  3 tool  4 reason  5 facts
-- Returns  1 if it was recorded, 0 if it was before, or the call is not unknown any more
-- Atomic because the event is written once.
--
-- include: clock
-- include: trail
local was = redis.call('HMGET', KEYS[2], 'call_id', 'fence', 'state', 'left')
if was[1] ~= ARGV[1] or was[2] ~= ARGV[2] or was[3] ~= 'unknown' or was[4] == ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], 'left', ARGV[2])
record(KEYS[1], KEYS[3], KEYS[4], clock(KEYS[1]), { type = 'reconciliation', tool = ARGV[3], call = ARGV[1],
  verdict = 'UNKNOWN', reason = ARGV[4], charged = 0, facts = ARGV[5] })
return 1
