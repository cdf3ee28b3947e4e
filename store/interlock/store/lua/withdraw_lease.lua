-- Takes a lease back that was granted on what is no longer true, and gives back what it cost.
--
-- A run is taken back also from a worker that has begun it meanwhile, which is told when it next asks.
--
-- KEYS  1 lease  2 usage  3 state  4 work  5 queue
-- ARGV  1 token: that it was granted to  2 month: that it was charged to  3 limited 1|0: whether the plan limits runs
--       4 channel  5 name: by which it is waited for
-- Returns  {1 if it was still in progress, else 0, and then what include/queue.lua tells of a run that is taken out}
-- Atomic because only the lease that was granted wrongly may be taken back, and once.
--
-- include: clock
-- include: lease
-- include: queue
local now, lease = clock(KEYS[3]), lease_at(KEYS[1])
if not lease or lease.asked ~= ARGV[1] or not runs(lease, now) then return { 0, unpack(NONE) } end
local at = { key = KEYS[1], lease_id = lease.lease_id, version = '', channel = ARGV[4], name = ARGV[5] }
settle(at, now, 'cancelled', 'withdrawn', {})
redis.call('HINCRBY', KEYS[2], 'leases:' .. ARGV[2], -1)
if ARGV[3] == '1' then redis.call('HINCRBY', KEYS[2], ARGV[2], -1) end
local was = lease.kind == 'run' and dequeue(KEYS[5], KEYS[4]) or NONE
return { 1, unpack(was) }
