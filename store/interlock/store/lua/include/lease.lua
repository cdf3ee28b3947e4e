-- The record of a lease. It is known this long after it ran out or was settled, and its versions grow as long.
local LEASE_KEPT_MS = 7 * 86400000
local LEASE = { 'status', 'lease_id', 'version', 'attempt', 'ttl', 'expires_at_ms', 'first_seen_at_ms', 'done_at_ms',
  'result_hash', 'error_code', 'proof', 'kind', 'asked' }
-- What is told to be left of a run that nobody works on just now: its queue holds it, and sees to it.
local QUEUED_LEFT_MS = 1000

-- Nil if the key was never leased, or is no longer known.
local function lease_at(key)
  local values, lease = redis.call('HMGET', key, unpack(LEASE)), {}
  for i, name in ipairs(LEASE) do lease[name] = values[i] or '' end
  return values[1] and lease
end

-- A run never runs out: a worker that is lost is replaced.
local function runs(lease, now)
  return lease.status == 'in_progress' and (lease.kind == 'run' or now < tonumber(lease.expires_at_ms))
end

local function is_held(lease, lease_id, version, now)
  return runs(lease, now) and lease.lease_id == lease_id and (version == '' or lease.version == version)
end

-- What every script says of a lease: {word, status, version, ttl ms, ttl left ms, first seen unix ms, done unix ms,
-- result_hash, error_code}. A lease that ran out is `expired`, which stands nowhere.
local function told(word, lease, now)
  if not lease then return { word, '', '0', '0', '0', '0', '0', '', '' } end
  local left_ms = tonumber(lease.expires_at_ms) - now
  if lease.kind == 'run' then left_ms = math.max(left_ms, QUEUED_LEFT_MS) end
  local left = runs(lease, now) and int(left_ms) or '0'
  local status = lease.status == 'in_progress' and left == '0' and 'expired' or lease.status
  return { word, status, lease.version, lease.ttl, left, lease.first_seen_at_ms,
    lease.done_at_ms == '' and '0' or lease.done_at_ms, lease.result_hash, lease.error_code }
end

-- Ends a lease in the word of its holder, `proof` saying what that was. The same word may come again: DONE. LOST: it is not
-- held, SETTLED: it was ended otherwise; either changes nothing. `at` has key, lease_id, version, channel and name.
-- With `failures`, what failed is told there, once: who watches raises the alert.
local MAX_FAILURES = 10000

local function settle(at, now, status, proof, facts)
  local lease = lease_at(at.key)
  if not lease then return told('UNKNOWN', nil, now) end
  local mine = lease.lease_id == at.lease_id and (at.version == '' or lease.version == at.version)
  if mine and lease.status ~= 'in_progress' then
    return told(lease.status == status and lease.proof == proof and 'DONE' or 'SETTLED', lease, now)
  end
  if not is_held(lease, at.lease_id, at.version, now) then return told('LOST', lease, now) end
  redis.call('HSET', at.key, 'status', status, 'done_at_ms', int(now), 'proof', proof, unpack(facts))
  redis.call('PEXPIREAT', at.key, int(now + LEASE_KEPT_MS))
  redis.call('PUBLISH', at.channel, at.name)
  if status == 'failed' and at.failures then
    local of = redis.call('HMGET', at.key, 'owner', 'key', 'kind', 'error_code')
    redis.call('XADD', at.failures, 'MAXLEN', '~', MAX_FAILURES, '*', 'agent', of[1] or '', 'key', of[2] or '',
      'kind', of[3] or '', 'error_code', of[4] or '')
    redis.call('PEXPIRE', at.failures, LEASE_KEPT_MS)
  end
  return told('DONE', lease_at(at.key), now)
end
