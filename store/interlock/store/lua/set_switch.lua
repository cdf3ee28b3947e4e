-- Pulls or lifts the switch of a namespace, or of everything.
--
-- KEYS  1 switch  2 epoch  3 state  4 audit
-- ARGV  1 pulled 1|0  2 reason  3 by: id of a key  4 channel  5 namespace  6 facts
-- Returns  unix ms of the change
-- Atomic because no decision may see the switch under the old epoch.
--
-- include: clock
-- include: trail
-- include: change
local time = redis.call('TIME')
local now = int(wall_ms())
redis.call('HSET', KEYS[1], 'pulled', ARGV[1], 'reason', ARGV[2], 'by', ARGV[3], 'changed_at', now,
  'changed_us', int(tonumber(time[1]) * 1000000 + tonumber(time[2])))
change({ epoch = KEYS[2], state = KEYS[3], audit = KEYS[4] }, ARGV[4], ARGV[5],
  { type = 'switch', tool = '', verdict = ARGV[1] == '1' and 'PULLED' or 'LIFTED', reason = ARGV[2], facts = ARGV[6] })
return now
