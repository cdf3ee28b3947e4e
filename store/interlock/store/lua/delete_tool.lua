-- Deletes a tool and raises the namespace's epoch.
--
-- KEYS  1 tools  2 epoch  3 state  4 audit
-- ARGV  1 field  2 name of the tool  3 channel  4 namespace  5 facts
-- Returns  1 if there was one, else 0
-- Atomic because no decision may see the tool gone under the old epoch.
--
-- include: clock
-- include: trail
-- include: change
if redis.call('HDEL', KEYS[1], ARGV[1], ARGV[1] .. '|revision') == 0 then return 0 end
change({ epoch = KEYS[2], state = KEYS[3], audit = KEYS[4] }, ARGV[3], ARGV[4],
  { type = 'tool', tool = ARGV[2], verdict = 'DELETED', reason = '', facts = ARGV[5] })
return 1
