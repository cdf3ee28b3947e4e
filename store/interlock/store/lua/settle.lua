-- Records what became of a call: frees, keeps or holds its key, and gives back what the outcome says.
--
-- KEYS  1 state  2 call  3 open  4 attempt  5 minutes  6 hours  7 days  8 audit  9 folds
--       and for a call of a run: 10 strand  11 running
-- ARGV  1 key  2 call_id  3 fence  4 attempt_id  5 outcome  6 event_type  7 failure  8 status  9 head  10 body  11 kept
--       12 size  13 digest  14 channel  15 facts  16 tool  17 backlog_cap, and for a call of a run: 18 agent
-- Returns  {applied 1|0, outcome, charged}: what the record says now; 0 if the permit was stale
-- Atomic because key, money and event must agree, and because two settlements of one call may race.
--
-- include: clock
-- include: trail
-- include: month
-- include: windows
-- include: timeline
-- include: run
local state, call, open, attempt = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local windows, audit = { minutes = KEYS[5], hours = KEYS[6], days = KEYS[7] }, KEYS[8]
local key, call_id, outcome, event_type, tool = ARGV[1], ARGV[2], ARGV[5], ARGV[6], ARGV[16]
local run = run_of(KEYS[10], KEYS[11], state, ARGV[18])
-- A freed key is remembered this long: for its waiters, and so that a repeated settlement is known as one.
local FREED_TTL_MS = 120000

local was = {}
was.call_id, was.fence, was.attempt, was.state, was.outcome, was.due, was.charged, was.at, was.ambiguous, was.hold,
  was.ttl, was.waiters = unpack(redis.call('HMGET', call, 'call_id', 'fence', 'attempt', 'state', 'outcome', 'due',
    'charged', 'at', 'ambiguous', 'hold', 'ttl', 'waiters'))

local mine = was.call_id == call_id and was.fence == ARGV[3] and was.attempt == ARGV[4]
if mine and was.outcome == outcome then return { '1', outcome, was.charged } end

local now = clock(state)
roll(windows, state, audit, now, ARGV[17])

local function conclude(type, reason, returned)
  record(state, audit, KEYS[9], now, { type = type, tool = tool, call = call_id, verdict = outcome, reason = reason,
    charged = -returned, facts = ARGV[15] })
  if not run then return end
  local told = { id = call_id, tool = tool, attempt = ARGV[4] }
  if event_type == 'withdrawal' and reason == 'superseded' then
    untell(run, ARGV[4], call_id)
  else
    local charged = type == 'stale_settlement' and 0 or tonumber(was.due) - returned
    tell_settlement(run, now, now, told, outcome,
      { failure = ARGV[7], held = was.hold == '1', charged = charged, resolved = type == 'resolution' }, ARGV[15])
  end
end

if not mine or not (was.state == 'in_flight' or was.state == 'unknown') then
  conclude('stale_settlement', ARGV[7], 0)
  return { '0', was.outcome or '', was.charged or '0' }
end

-- What this try charged comes back if it did not happen; what an earlier, ambiguous try charged never does.
local returned = 0
if outcome == 'REJECTED' or outcome == 'NOT_SENT' then returned = tonumber(was.due) end
tally(windows, now, tonumber(was.at), tool, outcome == 'NOT_SENT' and -1 or 0, -returned)

local ambiguous = was.ambiguous == '1'
local becomes = 'open'
if outcome == 'SUCCEEDED' then becomes = 'succeeded' end
if outcome == 'AMBIGUOUS' and was.hold == '1' then becomes = 'unknown' end
if outcome == 'AMBIGUOUS' then ambiguous = true end

redis.call('HSET', call, 'state', becomes, 'outcome', outcome, 'ambiguous', ambiguous and '1' or '0', 'due', '0',
  'charged', int(tonumber(was.charged) - returned),
  -- What an answer says is only kept for who may ask for it.
  unpack((outcome == 'SUCCEEDED' or was.waiters) and { 'failure', ARGV[7], 'status', ARGV[8], 'head', ARGV[9], 'body',
    ARGV[10], 'kept', ARGV[11], 'size', ARGV[12], 'digest', ARGV[13] } or {}))
if becomes == 'unknown' then
  -- Still this try's money, should it turn out not to have happened.
  redis.call('HSET', call, 'due', was.due)
  redis.call('PERSIST', call)
  -- Its lease is over: by this order those that run are told from those that need a word.
  redis.call('ZADD', open, 'XX', int(now), key)
else
  redis.call('ZREM', open, key)
  local lasting = becomes == 'succeeded' or ambiguous
  redis.call('PEXPIRE', call, lasting and was.ttl or FREED_TTL_MS)
end
-- A withdrawn attempt may be judged again; one that was given up may not.
if event_type == 'withdrawal' and ARGV[7] == 'abandoned' then
  redis.call('SET', attempt, 'ABANDONED', 'PX', FREED_TTL_MS)
elseif event_type == 'withdrawal' then
  redis.call('DEL', attempt)
end
conclude(event_type, ARGV[7], returned)
if was.waiters then redis.call('PUBLISH', ARGV[14], call_id) end
return { '1', outcome, int(tonumber(was.charged) - returned) }
