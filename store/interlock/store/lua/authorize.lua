-- Decides one call and, if it may run, reserves its key, its action and its cost.
--
-- KEYS  1 config  2 state  3 call  4 open  5 id  6 attempt  7 minutes  8 hours  9 days  10 audit  11 folds
--       and for a call of a run: 12 strand  13 running
-- ARGV  1 attempt_id  2 call_id  3 key  4 fingerprint  5 tool  6 policy_version  7 switch_reason  8 rule_reason
--       9 cost  10 max_actions  11 max_tool_calls  12 max_spend  13 lease_ms  14 hold  15 ttl_ms  16 will_wait
--       17 awaited  18 basis  19 facts  20 repeatable  21 backlog_cap  22 quota_reason, and for a call of a run: 23 agent
--       24 part (1: others tell of its beginning and end)  25 run_id
-- Returns  {POLICY, version, policy, risk, risk_until} if the policy moved, {ABANDONED} if the attempt was (nothing is
--       written), else {verdict, reason, call_id, basis, fence, retry_after_ms, charged, actions_left, tool_calls_left,
--       spend_left, day_resets_in_ms, failure, status, head, body, kept, size, digest}
-- Atomic because the switch, the key, the three budgets and the event are one decision: no two calls may both see
-- the last action left, and no call may run without its record.
--
-- include: clock
-- include: trail
-- include: month
-- include: windows
-- include: timeline
-- include: run
local config, state, call, open, id, attempt = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local windows, audit, folds = { minutes = KEYS[7], hours = KEYS[8], days = KEYS[9] }, KEYS[10], KEYS[11]
local attempt_id, call_id, key, fingerprint, tool = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local cost, max_actions = tonumber(ARGV[9]), tonumber(ARGV[10])
local max_tool_calls, max_spend = tonumber(ARGV[11]), tonumber(ARGV[12])
local lease_ms, hold, ttl_ms, will_wait, awaited = tonumber(ARGV[13]), ARGV[14], ARGV[15], ARGV[16], ARGV[17]
local repeatable, backlog_cap = ARGV[20] == '1', tonumber(ARGV[21])
local run = run_of(KEYS[12], KEYS[13], state, ARGV[23], ARGV[24])
local ATTEMPT_TTL_MS, BACKLOG_PAUSE_MS = 120000, 5000

-- The leader's answer, in the order of the reply.
local function answer()
  local kept = redis.call('HMGET', call, 'failure', 'status', 'head', 'body', 'kept', 'size', 'digest')
  for i = 1, 7 do kept[i] = kept[i] or '' end
  return kept
end

local function reply(decision)
  if decision[1] == 'REPLAY' then
    for _, part in ipairs(answer()) do decision[#decision + 1] = part end
  end
  return decision
end

local seen = redis.call('GET', attempt)
if seen == 'ABANDONED' then return { 'ABANDONED' } end
if seen then return reply(cmsgpack.unpack(seen)) end

local version, off = unpack(redis.call('HMGET', config, 'version', 'off'))
if (version or '0') ~= ARGV[6] then
  local moved = redis.call('HMGET', config, 'policy', 'risk', 'risk_until')
  return { 'POLICY', version or '0', moved[1] or '', moved[2] or '', moved[3] or '0' }
end

local now = clock(state)
roll(windows, state, audit, now, backlog_cap)
local today = int(bucket(now, DAY))

-- Read once, and only what there is a limit to.
local used = { actions = 0, tool_calls = 0, spend = 0 }
if max_actions >= 0 then used.actions = tonumber(redis.call('HGET', windows.minutes, 'total')) end
if max_tool_calls >= 0 or max_spend >= 0 then
  local counted = redis.call('HMGET', windows.days, today .. ':t:' .. tool, today .. ':s')
  used.tool_calls, used.spend = tonumber(counted[1] or 0), tonumber(counted[2] or 0)
end
local function left(limit, used) return limit < 0 and '-1' or int(math.max(0, limit - used)) end
local day_resets_in_ms = (bucket(now, DAY) + 1) * DAY - now

local function decide(verdict, reason, about, more)
  more = more or {}
  local charged = more.charged or 0
  if not more.undecided then
    if verdict ~= 'EXECUTE' then count_unreserved(windows, now, now, verdict, 1) end
    local event = { type = 'decision', tool = tool, call = about, verdict = verdict, reason = reason, charged = charged,
      facts = ARGV[19] }
    if verdict == 'EXECUTE' or verdict == 'REPLAY' then
      record(state, audit, folds, now, event)
    else
      refuse(state, audit, folds, now, event, table.concat({ max_actions, max_tool_calls, max_spend }, ' '))
    end
    if run then
      tell_decision(run, now, { id = about, tool = tool, attempt = attempt_id }, verdict, reason, more.failed, ARGV[19])
    end
  end
  local decision = { verdict, reason, about, ARGV[18], int(more.fence or 0), int(more.retry_after_ms or 0), int(charged),
    left(max_actions, used.actions), left(max_tool_calls, used.tool_calls), left(max_spend, used.spend),
    int(day_resets_in_ms) }
  redis.call('SET', attempt, cmsgpack.pack(decision), 'PX', ATTEMPT_TTL_MS)
  return reply(decision)
end

-- 1. Kill switches, then lists.
if ARGV[7] ~= '' then return decide('BLOCKED', ARGV[7], call_id) end
if off == '1' then return decide('BLOCKED', 'agent_disabled', call_id) end
if ARGV[8] ~= '' then return decide('BLOCKED', ARGV[8], call_id) end

-- 2. Deduplication.
local was = {}
was.state, was.call_id, was.fingerprint, was.lease_until, was.hold, was.ambiguous, was.charged, was.outcome, was.tries,
  was.first_seen = unpack(redis.call('HMGET', call, 'state', 'call_id', 'fingerprint', 'lease_until', 'hold',
    'ambiguous', 'charged', 'outcome', 'tries', 'first_seen'))
local ambiguous = was.ambiguous == '1'

local superseded = was.outcome == 'NOT_SENT' and redis.call('HGET', call, 'failure') == 'superseded'
if was.state == 'open' and awaited ~= '' and was.call_id == awaited and not superseded then
  return decide('REPLAY', 'tool_idempotency', was.call_id, { failed = was.outcome ~= 'SUCCEEDED' })
end
local vacant = not was.state or (was.state == 'open' and not ambiguous)
if not vacant and was.fingerprint ~= fingerprint then return decide('MISMATCH', 'idempotency_key_reused', was.call_id) end
if was.state == 'succeeded' then return decide('REPLAY', 'tool_idempotency', was.call_id) end
if was.state == 'in_flight' and tonumber(was.lease_until) > now then
  -- Who waits has not been refused: that is decided, and recorded, when the wait is over.
  if will_wait == '1' then redis.call('HSET', call, 'waiters', '1') end
  return decide('IN_FLIGHT', 'in_flight', was.call_id,
    { retry_after_ms = tonumber(was.lease_until) - now, undecided = will_wait == '1' })
end
if was.state == 'in_flight' then
  -- Its sidecar died between send and settle: nobody knows whether it happened.
  if was.hold == '1' then redis.call('HSET', call, 'state', 'unknown') else ambiguous = true end
end
if was.state == 'unknown' or (was.state == 'in_flight' and was.hold == '1') then
  return decide('UNKNOWN', 'outcome_unknown', was.call_id)
end

-- 3. Budgets. Spend is charged once a key, an action each time. What can never pass has no time to come back at.
local charged = (not vacant and tonumber(was.charged)) or 0
local due = math.max(0, cost - charged)
if ARGV[22] ~= '' then return decide('BLOCKED', ARGV[22], call_id) end
if max_actions >= 0 and used.actions >= max_actions then
  local wait
  local minute, newest = bucket(now, MINUTE) - 60, bucket(now, MINUTE)
  while max_actions > 0 and not wait and minute <= newest do
    if tonumber(redis.call('HGET', windows.minutes, int(minute) .. ':a') or 0) > 0 then
      wait = (minute + 61) * MINUTE - now
    end
    minute = minute + 1
  end
  return decide('BLOCKED', 'max_actions_per_hour_exceeded', call_id, { retry_after_ms = wait or 0 })
end
if max_tool_calls >= 0 and used.tool_calls >= max_tool_calls then
  return decide('BLOCKED', 'max_calls_per_tool_exceeded', call_id,
    { retry_after_ms = max_tool_calls > 0 and day_resets_in_ms or 0 })
end
if max_spend >= 0 and due > 0 and used.spend + due > max_spend then
  return decide('BLOCKED', 'max_spend_usd_per_day_exceeded', call_id,
    { retry_after_ms = due <= max_spend and day_resets_in_ms or 0 })
end

-- 4. No evidence may be pushed out: with too much of it not exported yet, nothing more is begun.
if backlog_cap >= 0 then
  local seq, exported = unpack(redis.call('HMGET', state, 'seq', 'exported'))
  if not exported then
    expect_export(state, backlog_cap)
  elseif tonumber(seq or 0) - tonumber(exported) >= backlog_cap then
    return decide('BLOCKED', 'audit_backlog', call_id, { retry_after_ms = BACKLOG_PAUSE_MS })
  end
end

-- 5. Reserve. Reserving is charging. The fence outlives the counters: it never falls behind the clock.
local fence = math.max(tonumber(redis.call('HGET', state, 'fence') or 0) + 1, now)
redis.call('HSET', state, 'fence', int(fence))
if was.state then
  redis.call('HDEL', call, 'outcome', 'failure', 'status', 'head', 'body', 'kept', 'size', 'digest', 'waiters', 'run')
end
redis.call('HSET', call, 'state', 'in_flight', 'call_id', call_id, 'attempt', attempt_id, 'fence', int(fence),
  'fingerprint', fingerprint, 'tool', tool, 'lease_until', int(now + lease_ms), 'hold', hold, 'ttl', ttl_ms,
  'ambiguous', ambiguous and '1' or '0', 'charged', int(charged + due), 'due', int(due), 'at', int(now),
  'tries', int(tonumber(was.tries or 0) + 1), 'first_seen', (not vacant and was.first_seen) or int(now))
-- Who is asked what became of the call is told of it, and not before it must be over, however the tool is changed.
if hold == '1' then redis.call('HSET', call, 'facts', ARGV[19], 'lease', int(lease_ms)) end
if run then
  if was.state == 'in_flight' then tell_lapsed(run, now, tool, was.call_id) end
  redis.call('HSET', call, 'run', ARGV[25])
end
if repeatable then
  if was.state then redis.call('PERSIST', call) end
  redis.call('ZADD', open, int(now + lease_ms), key)
  redis.call('SET', id, key, 'PX', int(tonumber(ttl_ms) + 7 * DAY))
else
  -- Nobody can ask for it again: should its sidecar die, there is nothing to keep.
  redis.call('PEXPIRE', call, DAY)
  redis.call('SET', id, key, 'PX', DAY)
end
tally(windows, now, now, tool, 1, due)
used.actions, used.tool_calls, used.spend = used.actions + 1, used.tool_calls + 1, used.spend + due
return decide('EXECUTE', 'ok', call_id, { fence = fence, charged = due })
