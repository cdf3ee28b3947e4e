-- Ends a namespace: its tools go, its record stays, so that the name is not given again.
--
-- KEYS  1 namespace  2 tools  3 epoch  4 state  5 audit
-- ARGV  1 expected: the revision it has  2 force 1|0  3 channel  4 name  5 facts
-- Returns  the new revision, 0 if another change came first, -1 if it has tools (nothing is written)
-- Atomic because no decision may see half of it, and no tool may be lost that was not seen.
--
-- include: clock
-- include: trail
-- include: change
if redis.call('HGET', KEYS[1], 'revision') ~= ARGV[1] then return 0 end
if ARGV[2] ~= '1' and redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
redis.call('DEL', KEYS[2])
local epoch = change({ epoch = KEYS[3], state = KEYS[4], audit = KEYS[5] }, ARGV[3], ARGV[4],
  { type = 'namespace', tool = '', verdict = 'DELETED', reason = '', facts = ARGV[5] })
redis.call('HSET', KEYS[1], 'revision', epoch, 'deleted_at', int(wall_ms()))
return epoch
