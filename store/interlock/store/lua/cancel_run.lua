-- Ends a run that waits or is worked on: its key may be leased again. Its worker is told when it next asks.
--
-- KEYS  1 lease  2 work  3 queue  4 state
-- ARGV  1 reason  2 channel  3 name: by which it is waited for
-- Returns  what include/lease.lua tells, then what include/queue.lua tells of a run that is taken out; the word is DONE,
--       SETTLED, LOST (it is no run), or UNKNOWN
-- Atomic because a run that is over is not cancelled, and what is cancelled is not begun.
--
-- include: clock
-- include: lease
-- include: queue
local now, lease = clock(KEYS[4]), lease_at(KEYS[1])
local word, was = nil, NONE
if lease and lease.kind ~= 'run' then
  word = told('LOST', lease, now)
else
  local at = { key = KEYS[1], lease_id = lease and lease.lease_id, version = '', channel = ARGV[2], name = ARGV[3] }
  word = settle(at, now, 'cancelled', '', { 'reason', ARGV[1] })
end
if word[1] == 'DONE' then was = dequeue(KEYS[3], KEYS[2]) end
for _, more in ipairs(was) do word[#word + 1] = more end
return word
