-- Says how a try to deliver an alert went: that it arrived, is tried again, or is given up.
--
-- KEYS  1 outbox  2 dead  3 alerts  4 deliveries
-- ARGV  1 id  2 member  3 state: waiting, delivered or dead  4 again_in_ms  5 delivery
-- Returns  1, or 0 if the alert is gone (nothing is written)
-- Atomic because a delivery must stand in exactly one place: due, dead, or done.
--
-- include: clock
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then return 0 end
local now = wall_ms()
redis.call('HSET', KEYS[4], ARGV[2], ARGV[5])
if ARGV[3] == 'waiting' then
  redis.call('ZADD', KEYS[1], int(now + tonumber(ARGV[4])), ARGV[2])
else
  redis.call('ZREM', KEYS[1], ARGV[2])
end
if ARGV[3] == 'dead' then
  redis.call('ZADD', KEYS[2], int(now), ARGV[2])
  redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[3]))
end
return 1
