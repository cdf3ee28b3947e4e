-- Records that the work of a held lease is done, and its result.
--
-- KEYS  1 lease  2 state  3 epoch
-- ARGV  1 basis: the epoch that the caller's key rests on  2 lease_id  3 version: or empty for any  4 has_result 1|0
--       5 result  6 result_hash  7 proof: by which the same completion is known  8 channel  9 name: by which it is waited for
-- Returns  what include/lease.lua tells; the word is DONE, LOST, SETTLED, UNKNOWN, or MOVED (the epoch; nothing was written)
-- Atomic because a lease that is being taken over must not be completed, and one is settled once.
--
-- include: clock
-- include: lease
if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[1] then return told('MOVED', nil, 0) end
local at = { key = KEYS[1], lease_id = ARGV[2], version = ARGV[3], channel = ARGV[8], name = ARGV[9] }
local facts = { 'result_hash', ARGV[6] }
if ARGV[4] == '1' then facts = { 'result_hash', ARGV[6], 'result', ARGV[5] } end
return settle(at, clock(KEYS[2]), 'completed', ARGV[7], facts)
