-- Takes the lease of a key if nobody holds it and its work is not over, and charges that to the UTC month.
--
-- KEYS  1 lease  2 usage  3 state  4 epoch  5 work  6 queue
-- ARGV  1 basis: the epoch that what follows rests on  2 switch_reason: why nothing is granted, or empty  3 lease_id: if it
--       is granted  4 attempt_id: of the caller's, or empty  5 ttl_ms  6 limit: of runs in a month, -1 is none  7 key
--       8 digest: of key and owner  9 owner: agent or empty  10 kind: lease or run  11 metadata: or empty  12 plan: of a run, or
--       empty  13 agent: that the run acts as  14 key_address: of the key it is queued with  15 max_queued
-- Returns  what include/lease.lua tells, then {lease_id or empty, charged 1|0, used in the month, month, took over 1|0}; the
--       word is ACQUIRED, POLLING, OVER (completed or failed), SWITCHED (by switch_reason), EXHAUSTED (the limit), FULL (the
--       queue), or MOVED (the epoch; nothing was written)
-- Atomic because a key has one holder, and no two acts may both have the last run of the month.
--
-- include: clock
-- include: month
-- include: usage
-- include: lease
-- include: queue
local usage, limit = KEYS[2], tonumber(ARGV[6])
if (redis.call('GET', KEYS[4]) or '0') ~= ARGV[1] then
  return { 'MOVED', '', '0', '0', '0', '0', '0', '', '', '', '0', '0', '', '0' }
end
local now = clock(KEYS[3])
local month, lease = month_of(now), lease_at(KEYS[1])
-- What a plan with a limit holds to counts calls and runs beside leases.
local counted = limit >= 0 and '' or 'leases'

local function answer(word, lease_id, charged, took_over)
  if word == 'POLLING' then
    count(usage, 'polling', month, 1)
  elseif word ~= 'ACQUIRED' then
    count(usage, 'blocked:ai', month, 1)
  end
  local reply = told(word, lease, now)
  for _, more in ipairs({ lease_id, charged, int(used(usage, counted, month)), month, took_over or '0' }) do
    reply[#reply + 1] = more
  end
  return reply
end

-- Of a run its worker is the holder: who began it is never given that lease by asking for one.
local mine = lease and runs(lease, now) and lease.kind == ARGV[10] and
  (lease.asked == ARGV[3] or ARGV[4] ~= '' and lease.attempt == ARGV[4])
if mine and ARGV[2] == '' then return answer('ACQUIRED', lease.lease_id, '1') end
count(usage, 'requests:ai', month, 1)
if ARGV[2] ~= '' then return answer('SWITCHED', '', '0') end
if lease and (lease.status == 'completed' or lease.status == 'failed') then return answer('OVER', '', '0') end
if lease and runs(lease, now) then return answer('POLLING', '', '0') end
if limit >= 0 and used(usage, '', month) >= limit then return answer('EXHAUSTED', '', '0') end
if ARGV[12] ~= '' and redis.call('XLEN', KEYS[6]) >= tonumber(ARGV[15]) then return answer('FULL', '', '0') end

local expires_at, took_over = now + tonumber(ARGV[5]), lease and lease.status == 'in_progress'
local version, first_seen = lease and lease.version or '0', lease and lease.first_seen_at_ms or int(now)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'status', 'in_progress', 'lease_id', ARGV[3], 'asked', ARGV[3], 'attempt', ARGV[4],
  'ttl', ARGV[5], 'version', int(tonumber(version) + 1), 'expires_at_ms', int(expires_at), 'first_seen_at_ms', first_seen, 'key', ARGV[7],
  'digest', ARGV[8], 'owner', ARGV[9], 'kind', ARGV[10], 'metadata', ARGV[11])
if ARGV[12] == '' then
  redis.call('PEXPIREAT', KEYS[1], int(expires_at + LEASE_KEPT_MS))
else
  enqueue(KEYS[6], KEYS[5], ARGV[8], { plan = ARGV[12], agent = ARGV[13], key_address = ARGV[14] })
end
count(usage, 'leases', month, 1)
if limit >= 0 then count(usage, '', month, 1) end
lease = lease_at(KEYS[1])
return answer('ACQUIRED', ARGV[3], '1', took_over and '1')
