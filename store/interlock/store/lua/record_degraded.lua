-- Records a call that went through while nobody could be asked: counts it once, and settles its key as far as it may.
--
-- KEYS  1 state  2 call  3 open  4 id  5 attempt  6 degraded  7 minutes  8 hours  9 days  10 audit  11 folds
--       and for a call of a run: 12 strand  13 running
-- ARGV  1 attempt_id  2 call_id  3 key  4 fingerprint  5 tool  6 outcome  7 cost  8 fence  9 repeatable  10 ttl_ms
--       11 age_ms  12 reason  13 failure  14 status  15 head  16 body  17 kept  18 size  19 digest  20 facts  21 channel
--       22 backlog_cap, and for a call of a run: 23 agent
-- Returns  {recorded 1|0, charged}: 0 if it was on record before
-- Atomic because the event, the counters and the key must agree, and because the attempt's own Authorize, which nobody
-- heard, may have reserved, or may still be on its way.
--
-- include: clock
-- include: trail
-- include: month
-- include: windows
-- include: timeline
-- include: run
local state, call, open, id, attempt, degraded = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local windows, audit = { minutes = KEYS[7], hours = KEYS[8], days = KEYS[9] }, KEYS[10]
local attempt_id, call_id, key, fingerprint, tool = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local outcome, cost, repeatable, ttl_ms = ARGV[6], tonumber(ARGV[7]), ARGV[9] == '1', tonumber(ARGV[10])
-- Longer than such a call may be told late, so that none is ever recorded twice.
local KNOWN_TTL_MS, ATTEMPT_TTL_MS, FREED_TTL_MS = 31 * DAY, 120000, 120000

if redis.call('EXISTS', degraded) == 1 then return { 0, '0' } end
local now = clock(state)
roll(windows, state, audit, now, ARGV[22])
local at = now - tonumber(ARGV[11])

local was = {}
was.attempt, was.state, was.fingerprint, was.lease_until, was.hold, was.ambiguous, was.charged, was.due, was.at, was.tries,
  was.first_seen, was.waiters, was.call_id = unpack(redis.call('HMGET', call, 'attempt', 'state', 'fingerprint',
    'lease_until', 'hold', 'ambiguous', 'charged', 'due', 'at', 'tries', 'first_seen', 'waiters', 'call_id'))
local vacant = not was.state or (was.state == 'open' and was.ambiguous ~= '1')
local same = vacant or was.fingerprint == fingerprint
local reserved = was.state == 'in_flight' and was.attempt == attempt_id
local seen = redis.call('GET', attempt)
-- Reserved once, and taken over since by another: what it charged stands.
local superseded = not reserved and seen and seen ~= 'ABANDONED' and cmsgpack.unpack(seen)[1] == 'EXECUTE'

-- 1. The account. What the attempt reserved unheard is this call's, and not charged again. Spend is charged once a key.
local happened = outcome == 'SUCCEEDED' or outcome == 'AMBIGUOUS'
local before = (same and not vacant) and tonumber(was.charged) or 0
local charged = 0
if reserved then
  charged = happened and 0 or 0 - tonumber(was.due)
  tally(windows, now, tonumber(was.at), tool, outcome == 'NOT_SENT' and -1 or 0, charged)
elseif not superseded then
  charged = happened and math.max(0, cost - before) or 0
  tally(windows, now, at, tool, outcome == 'NOT_SENT' and 0 or 1, charged)
end

-- 2. The key, unless it is another's by now: of a call that runs, that succeeded, or that must not be repeated.
local lapsed = was.state == 'in_flight' and was.hold ~= '1' and tonumber(was.lease_until) <= now
local free = same and (vacant or was.state == 'open' or lapsed)
local settled = reserved or (repeatable and happened and free)
if settled and happened then
  local fence = math.max(tonumber(redis.call('HGET', state, 'fence') or 0) + 1, math.min(tonumber(ARGV[8]), now))
  redis.call('HSET', state, 'fence', int(fence))
  redis.call('HSET', call, 'state', outcome == 'SUCCEEDED' and 'succeeded' or 'open', 'outcome', outcome, 'ambiguous',
    outcome == 'AMBIGUOUS' and '1' or '0', 'call_id', call_id, 'attempt', attempt_id, 'fence', int(fence), 'fingerprint',
    fingerprint, 'tool', tool, 'lease_until', int(at), 'hold', '0', 'ttl', int(ttl_ms), 'charged',
    int(before + charged), 'due', '0', 'at', int(at), 'tries', int(tonumber(was.tries or 0) + (reserved and 0 or 1)),
    'first_seen', (not vacant and was.first_seen) or int(at))
  redis.call('HSET', call, 'failure', ARGV[13], 'status', ARGV[14], 'head', ARGV[15], 'body', ARGV[16], 'kept', ARGV[17],
    'size', ARGV[18], 'digest', ARGV[19])
  redis.call('PEXPIRE', call, int(ttl_ms))
  redis.call('SET', id, key, 'PX', int(ttl_ms + 7 * DAY))
elseif settled then
  redis.call('HSET', call, 'state', 'open', 'outcome', outcome, 'due', '0', 'charged', int(before + charged))
  redis.call('PEXPIRE', call, was.ambiguous == '1' and int(ttl_ms) or FREED_TTL_MS)
end
if not settled and same and happened and (was.state == 'in_flight' or was.state == 'unknown') then
  -- Another try under this key goes on. Should it come to nothing, this one still has happened, and has cost.
  local total, earlier = before + charged, before - tonumber(was.due)
  redis.call('HSET', call, 'ambiguous', '1', 'charged', int(total), 'due',
    int(math.max(0, total - math.max(cost, earlier))))
end
if settled then
  redis.call('ZREM', open, key)
  if was.waiters and was.call_id then redis.call('PUBLISH', ARGV[21], was.call_id) end
end

-- 3. The record. The attempt's own Authorize, should it still come, must reserve nothing.
redis.call('SET', attempt, 'ABANDONED', 'PX', ATTEMPT_TTL_MS)
redis.call('SET', degraded, '1', 'PX', KNOWN_TTL_MS)
record(state, audit, KEYS[11], now, { type = 'degraded', tool = tool, call = call_id, verdict = 'EXECUTE', reason = ARGV[12],
  charged = charged, facts = ARGV[20] })
local run = run_of(KEYS[12], KEYS[13], state, ARGV[23])
if run then
  local told = { id = call_id, tool = tool, attempt = attempt_id }
  -- What its own Authorize wrote, unheard, is of this very call.
  untell(run, attempt_id, reserved and was.call_id or '')
  tell_call(run, now, at, told, 'EXECUTE', ARGV[20])
  tell_settlement(run, now, at, told, outcome, { failure = ARGV[13], held = false, charged = charged }, ARGV[20])
end
return { 1, int(charged) }
