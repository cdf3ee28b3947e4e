-- Has dead letters delivered again, from the first try on.
--
-- KEYS  1 outbox  2 dead  3 alerts  4 deliveries
-- ARGV  1 id of their alert, or empty for all that are dead  2 limit
-- Returns  how many they were
-- Atomic because a delivery must stand in exactly one place, and two operators may ask for it.
--
-- include: clock
-- include: alerts
local members = ARGV[1] ~= '' and deliveries_of(ARGV[1]) or redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[2]) - 1)
local now, moved = wall_ms(), 0
for _, member in ipairs(members) do
  if redis.call('ZREM', KEYS[2], member) == 1 then
    redis.call('ZADD', KEYS[1], int(now), member)
    redis.call('HSET', KEYS[4], member, '{}')
    moved = moved + 1
  end
end
if moved > 0 then
  for _, key in ipairs({ KEYS[1], KEYS[4] }) do redis.call('PEXPIRE', key, redis.call('PTTL', KEYS[3])) end
end
return moved
