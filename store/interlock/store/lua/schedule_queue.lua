-- Says when a namespace's queue is to be looked at again, unless somebody has said so since it was looked at.
--
-- KEYS  1 queues
-- ARGV  1 namespace  2 claim: when it was due again by whoever looked (unix ms)  3 in_ms, or -1 for never
-- Returns  1, or 0 if it was said since
-- Atomic because a run that is queued meanwhile must be looked for.
--
-- include: clock
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == '-1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], int(wall_ms() + tonumber(ARGV[3])), ARGV[1])
end
return 1
