-- Prolongs the lease of a running call.
--
-- KEYS  1 config  2 state  3 call  4 open
-- ARGV  1 key  2 call_id  3 fence  4 attempt_id  5 lease_ms
-- Returns  {word, policy_version}; the word is RENEWED, LOST (settled, taken over or gone) or DISABLED (the agent's switch
--       is pulled)
-- Atomic because a lease that is being taken over must not be prolonged.
--
-- include: clock
local record = redis.call('HMGET', KEYS[3], 'call_id', 'fence', 'attempt', 'state')
if record[1] ~= ARGV[2] or record[2] ~= ARGV[3] or record[3] ~= ARGV[4] or record[4] ~= 'in_flight' then
  return { 'LOST', '0' }
end
local version, off = unpack(redis.call('HMGET', KEYS[1], 'version', 'off'))
if off == '1' then return { 'DISABLED', version or '0' } end
local until_ms = int(clock(KEYS[2]) + tonumber(ARGV[5]))
redis.call('HSET', KEYS[3], 'lease_until', until_ms)
redis.call('ZADD', KEYS[4], 'XX', until_ms, ARGV[1])
return { 'RENEWED', version or '0' }
