-- Says when a call that must not be repeated is to be looked at again, or that it needs no looking after any more.
--
-- KEYS  1 held  2 unknown
-- ARGV  1 member  2 in_ms, or -1 for never  3 unknown 1|0
-- Returns  1
-- Atomic because both indexes speak of the same call.
--
-- include: clock
if ARGV[2] == '-1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], int(wall_ms() + tonumber(ARGV[2])), ARGV[1])
end
if ARGV[3] == '1' then redis.call('ZADD', KEYS[2], 'NX', int(wall_ms()), ARGV[1]) else redis.call('ZREM', KEYS[2], ARGV[1]) end
return 1
