-- Pulls or lifts the switch of a namespace, or of everything.
--
-- KEYS  1 switch  2 epoch
-- ARGV  1 pulled 1|0  2 reason
-- Returns  unix ms of the change
-- Atomic because no decision may see the switch under the old epoch.
--
-- include: clock
local now = int(wall_ms())
redis.call('HSET', KEYS[1], 'pulled', ARGV[1], 'reason', ARGV[2], 'changed_at', now)
redis.call('INCR', KEYS[2])
return now
