-- Takes deliveries that are due, so that one engine at a time tries each.
--
-- KEYS  1 outbox  2 alerts  3 deliveries
-- ARGV  1 limit  2 claim_ms
-- Returns  {member, alert, delivery, ...}, each due again after the claim
-- Atomic because who takes a delivery and when it is due again are one: of two engines only one gets it.
--
-- include: clock
local now = wall_ms()
local taken = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, ARGV[1])) do
  local alert = redis.call('HGET', KEYS[2], string.match(member, '^[^|]+'))
  if alert then
    redis.call('ZADD', KEYS[1], int(now + tonumber(ARGV[2])), member)
    taken[#taken + 1] = member
    taken[#taken + 1] = alert
    taken[#taken + 1] = redis.call('HGET', KEYS[3], member) or '{}'
  else
    redis.call('ZREM', KEYS[1], member)
  end
end
return taken
