-- Deletes a tool and raises the namespace's epoch.
--
-- KEYS  1 tools  2 epoch
-- ARGV  1 field
-- Returns  1 if there was one, else 0
-- Atomic because no decision may see the tool gone under the old epoch.
local gone = redis.call('HDEL', KEYS[1], ARGV[1], ARGV[1] .. '|revision')
if gone > 0 then redis.call('INCR', KEYS[2]) end
return gone > 0 and 1 or 0
