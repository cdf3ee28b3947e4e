-- Takes an entry of a queue for a worker.
--
-- It is one whose worker was not heard of for the length of a lease, else the oldest that nobody has had.
--
-- KEYS  1 queue
-- ARGV  1 worker  2 lease_ms
-- Returns  {entry, run, how many entries stand in the queue}; without an entry both are empty
-- Atomic because an entry is given to one worker.
--
-- include: queue
local SCANS = 10
if redis.call('EXISTS', KEYS[1]) == 0 then return { '', '', 0 } end
local found, from = nil, '0-0'
for _ = 1, SCANS do
  local claimed = redis.call('XAUTOCLAIM', KEYS[1], WORKERS, ARGV[1], ARGV[2], from, 'COUNT', 1)
  from, found = claimed[1], claimed[2][1]
  if found or from == '0-0' then break end
end
if not found then
  local read = redis.call('XREADGROUP', 'GROUP', WORKERS, ARGV[1], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
  found = read and read[1][2][1]
end
local entries = redis.call('XLEN', KEYS[1])
if not found then return { '', '', entries } end
return { found[1], found[2][2], entries }
