-- Gives a held lease up: its key may be leased again.
--
-- KEYS  1 lease  2 state  3 epoch
-- ARGV  1 basis: the epoch that the caller's key rests on  2 lease_id  3 version: or empty for any  4 reason  5 channel
--       6 name: by which it is waited for
-- Returns  what include/lease.lua tells; the word is DONE, LOST, SETTLED, UNKNOWN, or MOVED (the epoch; nothing was written)
-- Atomic because a lease that is being taken over must not be cancelled, and one is settled once.
--
-- include: clock
-- include: lease
if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[1] then return told('MOVED', nil, 0) end
local at = { key = KEYS[1], lease_id = ARGV[2], version = ARGV[3], channel = ARGV[5], name = ARGV[6] }
return settle(at, clock(KEYS[2]), 'cancelled', '', { 'reason', ARGV[4] })
