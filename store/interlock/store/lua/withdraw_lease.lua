-- Takes a lease back that was granted on what is no longer true, and gives back what it cost.
--
-- KEYS  1 lease  2 usage  3 state
-- ARGV  1 lease_id  2 month: that it was charged to  3 limited 1|0: whether the plan limits runs  4 channel  5 name: by
--       which it is waited for
-- Returns  1 if it was held, else 0
-- Atomic because only the lease that was granted wrongly may be taken back, and once.
--
-- include: clock
-- include: lease
local at = { key = KEYS[1], lease_id = ARGV[1], version = '', channel = ARGV[4], name = ARGV[5] }
local now = clock(KEYS[3])
local lease = lease_at(at.key)
if not lease or not is_held(lease, at.lease_id, '', now) then return 0 end
settle(at, now, 'cancelled', 'withdrawn', {})
redis.call('HINCRBY', KEYS[2], 'leases:' .. ARGV[2], -1)
if ARGV[3] == '1' then redis.call('HINCRBY', KEYS[2], ARGV[2], -1) end
return 1
