-- Records that the work of a held lease failed, for good.
--
-- KEYS  1 lease  2 state  3 epoch  4 failures
-- ARGV  1 basis: the epoch that the caller's key rests on  2 lease_id  3 version: or empty for any  4 error_code
--       5 error_hash  6 channel  7 name: by which it is waited for
-- Returns  what include/lease.lua tells; the word is DONE, LOST, SETTLED, UNKNOWN, or MOVED (the epoch; nothing was written)
-- Atomic because a lease that is being taken over must not be failed, and one is settled once.
--
-- include: clock
-- include: lease
if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[1] then return told('MOVED', nil, 0) end
local at = { key = KEYS[1], lease_id = ARGV[2], version = ARGV[3], channel = ARGV[6], name = ARGV[7],
  failures = KEYS[4] }
local facts = { 'error_code', ARGV[4], 'error_hash', ARGV[5] }
return settle(at, clock(KEYS[2]), 'failed', cmsgpack.pack({ ARGV[4], ARGV[5] }), facts)
