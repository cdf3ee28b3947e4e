-- Stores a tool and raises the namespace's epoch; the new epoch is the tool's revision.
--
-- KEYS  1 tools  2 epoch
-- ARGV  1 field  2 tool (JSON)  3 expected: the JSON it replaces, empty for none
-- Returns  the revision, or 0 if another change came first (nothing is written)
-- Atomic because a replaced tool's secrets are carried over: two replacements must not lose one another's.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[3] then return 0 end
local epoch = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1] .. '|revision', epoch)
return epoch
