-- Takes calls that must not be repeated and are due to be looked at, so that one engine at a time looks at each.
--
-- KEYS  1 held  2 unknown
-- ARGV  1 limit  2 claim_ms
-- Returns  {how many are known to be unknown, the members due}; each is due again after the claim
-- Atomic because who takes a call and when it is due again are one: of two engines only one gets it.
--
-- include: clock
local now = wall_ms()
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do redis.call('ZADD', KEYS[1], int(now + tonumber(ARGV[2])), member) end
return { redis.call('ZCARD', KEYS[2]), due }
