-- Has a held lease last longer, from now.
--
-- KEYS  1 lease  2 state  3 epoch
-- ARGV  1 basis: the epoch that what follows rests on  2 switch_reason: why nothing is prolonged, or empty  3 lease_id
--       4 version: or empty for any  5 ttl_ms: none (0) is what it was last for  6 most_ms: at most
-- Returns  what include/lease.lua tells; the word is EXTENDED, LOST (it is not held), UNKNOWN (there is none), SWITCHED (by
--       switch_reason), or MOVED (the epoch); all but the first change nothing
-- Atomic because a lease that is being taken over must not be prolonged.
--
-- include: clock
-- include: lease
if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[1] then return told('MOVED', nil, 0) end
local now, lease = clock(KEYS[2]), lease_at(KEYS[1])
if not lease then return told('UNKNOWN', nil, now) end
if not is_held(lease, ARGV[3], ARGV[4], now) then return told('LOST', lease, now) end
if ARGV[2] ~= '' then return told('SWITCHED', lease, now) end
local ttl = ARGV[5] == '0' and tonumber(lease.ttl) or tonumber(ARGV[5])
ttl = math.min(ttl, tonumber(ARGV[6]))
redis.call('HSET', KEYS[1], 'ttl', int(ttl), 'expires_at_ms', int(now + ttl))
redis.call('PEXPIREAT', KEYS[1], int(now + ttl + LEASE_KEPT_MS))
return told('EXTENDED', lease_at(KEYS[1]), now)
