-- An idle agent's counters and trail go in the end; its records of calls have times of their own.
local STATE_TTL_MS, TRAIL_TTL_MS = 400 * 86400000, 8 * 86400000

-- Appends one event under the next seq. The entry's id is <seq>-<unix ms>, so a range of seqs is a range of ids.
local function record(state, audit, now, event)
  local seq = redis.call('HINCRBY', state, 'seq', 1)
  redis.call('XADD', audit, int(seq) .. '-' .. int(now), 'type', event.type, 'tool', event.tool, 'call', event.call,
    'verdict', event.verdict, 'reason', event.reason, 'charged', int(event.charged), 'facts', event.facts)
  redis.call('PEXPIRE', state, STATE_TTL_MS)
  redis.call('PEXPIRE', audit, TRAIL_TTL_MS)
end
