-- Ends a run that waits or is worked on: its key may be leased again. Its worker is told when it next asks.
--
-- KEYS  1 lease  2 work  3 queue  4 state
-- ARGV  1 reason  2 channel  3 name: by which it is waited for
-- Returns  what include/lease.lua tells; the word is DONE, SETTLED, LOST (it is no run), or UNKNOWN
-- Atomic because a run that is over is not cancelled, and what is cancelled is not begun.
--
-- include: clock
-- include: lease
-- include: queue
local now, lease = clock(KEYS[4]), lease_at(KEYS[1])
if lease and lease.kind ~= 'run' then return told('LOST', lease, now) end
local at = { key = KEYS[1], lease_id = lease and lease.lease_id, version = '', channel = ARGV[2], name = ARGV[3] }
local word = settle(at, now, 'cancelled', '', { 'reason', ARGV[1] })
local entry = redis.call('HGET', KEYS[2], 'entry')
if word[1] == 'DONE' and entry then
  redis.call('DEL', KEYS[2])
  unqueue(KEYS[3], entry)
end
return word
