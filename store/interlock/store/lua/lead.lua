-- Takes or keeps the lease by which one exporter, or one watcher, at a time works.
--
-- KEYS  1 lease
-- ARGV  1 holder  2 ttl_ms
-- Returns  the fence, higher for each new holder, or 0 while another holds the lease
-- Atomic because two must not both find it free.
--
-- include: clock
local now = wall_ms()
local holder, until_ms, fence = unpack(redis.call('HMGET', KEYS[1], 'holder', 'until', 'fence'))
local mine = holder == ARGV[1]
if not mine and tonumber(until_ms or 0) > now then return '0' end
-- As the fences of calls: it never falls behind the clock, should the record of it be lost.
if not mine then fence = int(math.max(tonumber(fence or 0) + 1, now)) end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', int(now + tonumber(ARGV[2])), 'fence', fence)
return fence
