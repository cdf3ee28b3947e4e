-- Names the namespaces whose queue of runs is due to be looked at, so that one engine at a time looks at each.
--
-- KEYS  1 queues
-- ARGV  1 limit  2 claim_ms
-- Returns  {when they are due again (unix ms), the namespaces}
-- Atomic because who looks and when it is due again are one: of two engines only one gets it.
--
-- include: clock
local now = wall_ms()
local again = int(now + tonumber(ARGV[2]))
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, ARGV[1])
for _, namespace in ipairs(due) do redis.call('ZADD', KEYS[1], again, namespace) end
return { again, due }
