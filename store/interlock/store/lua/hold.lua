-- Makes a call unknown whose sidecar is long gone, so that its lease can be prolonged no more.
--
-- KEYS  1 state  2 call
-- ARGV  1 call_id  2 fence  3 attempt_id  4 patience_ms
-- Returns  1 if it is unknown now, 0 if it is not: settled, taken over, or its lease is not over for so long
-- Atomic because a lease that is being prolonged must not be taken for one that is over.
--
-- include: clock
local was = redis.call('HMGET', KEYS[2], 'call_id', 'fence', 'attempt', 'state', 'lease_until', 'hold')
if was[1] ~= ARGV[1] or was[2] ~= ARGV[2] or was[3] ~= ARGV[3] or was[6] ~= '1' then return 0 end
if was[4] == 'unknown' then return 1 end
if was[4] ~= 'in_flight' or tonumber(was[5]) + tonumber(ARGV[4]) > clock(KEYS[1]) then return 0 end
redis.call('HSET', KEYS[2], 'state', 'unknown')
return 1
