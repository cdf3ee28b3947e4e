-- What a call writes into the timeline of its run, in its agent's strand. A `run` is nil for a call without one; `running`
-- is a hash of its calls that are not settled: 1 for those of a run whose beginning and end others tell of, else 0.
local RESULTS = { REPLAY = 'ok', SUCCEEDED = 'ok', REJECTED = 'error', NOT_SENT = 'error', AMBIGUOUS = 'error',
  UNKNOWN = 'unknown' }
local ENDS = { ok = 'completed', error = 'failed', blocked = 'blocked', unknown = 'unknown' }
local ANSWERS = { EXECUTE = 'allowed', REPLAY = 'dedup', UNKNOWN = 'unknown' }

-- `part` says that others tell of the run's beginning and end.
local function run_of(strand, running, state, agent, part)
  return strand and { strand = strand, running = running, state = state, agent = agent, part = part == '1' }
end

-- `facts` is a JSON object, kept as it is.
local function tell(run, now, at, event, facts)
  event.agent = run.agent
  add_line(run.strand, run.state, now, math.floor(at / 1000), string.sub(cjson.encode(event), 1, -2) .. ',"facts":' .. facts .. '}')
end

local function line(type, status, call)
  return { type = type, status = status, tool = call.tool, call = call.id, attempt = call.attempt }
end

-- A call is judged; `at` is when. The first of its agent's in a run begins it.
local function tell_call(run, now, at, call, verdict, facts)
  if not run.part and redis.call('EXISTS', run.strand) == 0 then
    tell(run, now, at, line('run_started', 'in_progress', call), '{}')
  end
  tell(run, now, at, line('tool_call', ANSWERS[verdict] or 'blocked', call), facts)
  if verdict == 'EXECUTE' then
    redis.call('HSET', run.running, call.id, run.part and '1' or '0')
    redis.call('PEXPIRE', run.running, STRAND_TTL_MS)
  end
end

-- Another call takes the place of one whose sidecar died: nobody knows whether it happened.
local function tell_lapsed(run, now, tool, call_id)
  if redis.call('HDEL', run.running, call_id) == 0 then return end
  local lapsed = line('tool_result', 'unknown', { id = call_id, tool = tool, attempt = '' })
  lapsed.message = 'lease_expired'
  tell(run, now, now, lapsed, '{}')
end

-- What came of a call; the last that was under way ends the run, as far as anybody knows.
local function tell_result(run, now, at, call, status, more, facts)
  local result = line('tool_result', status, call)
  for name, value in pairs(more) do result[name] = value end
  tell(run, now, at, result, facts)
  if run.part or redis.call('HLEN', run.running) > 0 then return end
  local finish = line('run_finished', ENDS[status], call)
  finish.message = more.message
  tell(run, now, at, finish, '{}')
end

-- A call that is refused, or answered from the record, is over as it is judged.
local function tell_decision(run, now, call, verdict, reason, failed, facts)
  tell_call(run, now, now, call, verdict, facts)
  if verdict == 'EXECUTE' then return end
  local status = failed and 'error' or RESULTS[verdict] or 'blocked'
  tell_result(run, now, now, call, status, { decision = verdict == 'REPLAY' and 'dedup' or 'blocked',
    policy_reason = reason, message = verdict ~= 'REPLAY' and reason or nil, charged = 0 }, '{}')
end

-- What became of a call that was let through. Told once; that an operator resolved it later is told beside.
local function tell_settlement(run, now, at, call, outcome, how, facts)
  local part = redis.call('HGET', run.running, call.id)
  run.part = part == '1'
  local us = string.match(facts, '"upstream_us":(%d+)')
  local more = { decision = 'executed', charged = how.charged, ms = us and math.floor(tonumber(us) / 1000) or nil }
  local status = (outcome == 'AMBIGUOUS' and how.held) and 'unknown' or RESULTS[outcome]
  more.policy_reason = status == 'ok' and 'ok' or 'tool_error'
  if status ~= 'ok' then more.message = how.failure ~= '' and how.failure or 'tool_error' end
  if part then
    redis.call('HDEL', run.running, call.id)
    tell_result(run, now, at, call, status, more, facts)
  elseif how.resolved then
    local resolved = line('tool_resolved', status, call)
    resolved.message = more.message
    tell(run, now, at, resolved, '{}')
  end
end

-- A decision that was withdrawn never held: it will be told of as it is judged anew. That the run has begun stands.
local function untell(run, attempt, call_id)
  redis.call('HDEL', run.running, call_id)
  local mark = '"attempt":"' .. attempt .. '"'
  for _, member in ipairs(redis.call('ZRANGE', run.strand, 0, -1)) do
    if string.find(member, mark, 1, true) and not string.find(member, '"type":"run_started"', 1, true) then
      redis.call('ZREM', run.strand, member)
    end
  end
end
