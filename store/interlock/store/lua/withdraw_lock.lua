-- Takes a lock back that rests on what is no longer true, and gives back what it cost.
--
-- KEYS  1 lock  2 usage
-- ARGV  1 token: of the asking that locked it  2 month: that it was charged to
-- Returns  1 if it was that one's, else 0
-- Atomic because only the lock that was granted wrongly may be taken back, and once.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HINCRBY', KEYS[2], 'make:' .. ARGV[2], -1)
return 1
