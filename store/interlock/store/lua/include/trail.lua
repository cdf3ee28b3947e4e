-- An agent's trail. Its counters and trail go in the end when it is idle; its records of calls have times of their own.
-- With an exporter in force, the agent's state says in `exported` how far every sink has got: then nothing that was not
-- exported is ever trimmed or left to expire, and `export.lua` does the trimming.
local STATE_TTL_MS, TRAIL_TTL_MS = 400 * 86400000, 8 * 86400000
-- Identical refusals of one UTC minute beyond so many are counted in one event, and so many times a minute a reader of
-- the trail may have those counts before the minute is over.
local SINGLE_REFUSALS, EARLY_READS, FOLD_UNIT_MS = 10, 10, 60000

-- Appends one event under the next seq. The entry's id is <seq>-<unix ms>, so a range of seqs is a range of ids.
local function append(state, audit, now, event, held)
  local seq = redis.call('HINCRBY', state, 'seq', 1)
  redis.call('XADD', audit, int(seq) .. '-' .. int(now), 'type', event.type, 'tool', event.tool, 'call', event.call,
    'verdict', event.verdict, 'reason', event.reason, 'charged', int(event.charged), 'facts', event.facts)
  redis.call('PEXPIRE', state, STATE_TTL_MS)
  if held then redis.call('PERSIST', audit) else redis.call('PEXPIRE', audit, TRAIL_TTL_MS) end
end

-- The fields of `folds` by identity of the refusal: n (how many in this minute), and where some wait to be appended
-- c (how many), first, last (unix ms) and as (what they have in common).
local function waiting(folds)
  local found, kept = {}, redis.call('HGETALL', folds)
  local by_name = {}
  for i = 1, #kept, 2 do by_name[kept[i]] = kept[i + 1] end
  for name, count in pairs(by_name) do
    local id = string.match(name, '^(%x+):c$')
    if id then
      found[#found + 1] = { id = id, count = count, first = by_name[id .. ':first'], last = by_name[id .. ':last'],
        as = cmsgpack.unpack(by_name[id .. ':as']) }
    end
  end
  table.sort(found, function(a, b) return a.first < b.first or (a.first == b.first and a.id < b.id) end)
  return found
end

-- Appends what is folded, one event for each kind of refusal. `over`: the minute is, so its counts begin anew.
local function unfold(state, audit, folds, now, held, over)
  for _, fold in ipairs(waiting(folds)) do
    local facts = { '"count":' .. fold.count, '"first_at":' .. fold.first, '"last_at":' .. fold.last }
    for _, name in ipairs({ 'key_id', 'matched_rule', 'risk_level' }) do
      if fold.as[name] then facts[#facts + 1] = '"' .. name .. '":' .. cjson.encode(fold.as[name]) end
    end
    append(state, audit, now, { type = 'refusals', tool = fold.as.tool, call = '', verdict = fold.as.verdict,
      reason = fold.as.reason, charged = 0, facts = '{' .. table.concat(facts, ',') .. '}' }, held)
    redis.call('HDEL', folds, fold.id .. ':c', fold.id .. ':first', fold.id .. ':last', fold.id .. ':as')
  end
  redis.call('HDEL', state, 'folding')
  if over then redis.call('DEL', folds) end
end

local function minute_of(now) return int(math.floor(now / FOLD_UNIT_MS)) end

-- Appends one event, and before it what was folded in a minute that is over.
local function record(state, audit, folds, now, event)
  local folding, exported = unpack(redis.call('HMGET', state, 'folding', 'exported'))
  if folding and folding ~= minute_of(now) then unfold(state, audit, folds, now, exported, true) end
  append(state, audit, now, event, exported)
end

-- Appends a refusal, or counts it if there were many like it in this minute: same verdict, reason, tool, key and rule.
local function refuse(state, audit, folds, now, event, limits)
  local minute = minute_of(now)
  if redis.call('HGET', folds, 'minute') ~= minute then
    local folding, exported = unpack(redis.call('HMGET', state, 'folding', 'exported'))
    if folding then unfold(state, audit, folds, now, exported, true) end
    redis.call('DEL', folds)
    redis.call('HSET', folds, 'minute', minute)
  end
  local facts = {}
  for name, value in pairs(cjson.decode(event.facts)) do
    if type(value) == 'string' then facts[name] = value end
  end
  local same = { event.verdict, event.reason, event.tool, facts.key_id or '', facts.matched_rule or '', limits }
  local id = redis.sha1hex(table.concat(same, '\n'))
  redis.call('PEXPIRE', folds, STATE_TTL_MS)
  if redis.call('HINCRBY', folds, id .. ':n', 1) <= SINGLE_REFUSALS then
    return record(state, audit, folds, now, event)
  end
  if redis.call('HINCRBY', folds, id .. ':c', 1) == 1 then
    redis.call('HSET', folds, id .. ':first', int(now), id .. ':as', cmsgpack.pack({ verdict = event.verdict,
      reason = event.reason, tool = event.tool, key_id = facts.key_id, matched_rule = facts.matched_rule,
      risk_level = facts.risk_level }))
  end
  redis.call('HSET', folds, id .. ':last', int(now))
  redis.call('HSET', state, 'folding', minute)
  redis.call('PEXPIRE', state, STATE_TTL_MS)
end

-- Says in the agent's state whether an exporter is in force; `cap` is the backlog it may have, or -1 for none. What was
-- there before is exported, too, but no reason to refuse calls.
local function expect_export(state, cap)
  if tonumber(cap) < 0 then
    redis.call('HDEL', state, 'exported')
  else
    redis.call('HSETNX', state, 'exported', redis.call('HGET', state, 'seq') or '0')
  end
end
