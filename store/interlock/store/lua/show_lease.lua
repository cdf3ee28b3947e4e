-- How a lease stands.
--
-- KEYS  1 lease
-- ARGV  1 with_result 1|0
-- Returns  what include/lease.lua tells, the word is KNOWN or UNKNOWN; with_result, and if there is one, the result
-- Atomic because status, time and result must be of one moment.
--
-- include: clock
-- include: lease
local lease = lease_at(KEYS[1])
local reply = told(lease and 'KNOWN' or 'UNKNOWN', lease, wall_ms())
reply[#reply + 1] = ARGV[1] == '1' and redis.call('HGET', KEYS[1], 'result') or nil
return reply
