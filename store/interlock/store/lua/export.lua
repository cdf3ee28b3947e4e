-- Notes how far a sink has durably got with an agent's trail, and trims what every sink has and no reader needs.
--
-- KEYS  1 state  2 audit  3 export
-- ARGV  1 sink  2 seq  3 hash  4 hour (of the event of that seq)  5 head (seq of its last signed head, if any)
--       6 before (the seq that was noted last)  7 fence  8 sinks (all in force, a comma between)
-- Returns  1, or 0 if another seq was noted last, or if an exporter with a higher fence has been here (nothing is written)
-- Atomic because what is trimmed must have been noted by every sink, and because two exporters must not both move on
-- from one point.
--
-- include: clock
-- include: trail
local state, audit, export = KEYS[1], KEYS[2], KEYS[3]
local sink, point = ARGV[1], { seq = tonumber(ARGV[2]), hash = ARGV[3] }
local HOUR_MS, KEEP_HOURS = 3600000, 168

-- A point of the chain, "<seq>:<hash>"; seq 0 where there is none.
local function noted(name)
  local seq = string.match(redis.call('HGET', export, name) or '', '^(%d+):')
  return tonumber(seq or 0)
end

local function note(name)
  if point.seq > noted(name) then redis.call('HSET', export, name, int(point.seq) .. ':' .. point.hash) end
end

if tonumber(redis.call('HGET', export, 'fence') or 0) > tonumber(ARGV[7]) then return 0 end
if noted('sink:' .. sink) ~= tonumber(ARGV[6]) then return 0 end
redis.call('HSET', export, 'fence', ARGV[7])
note('sink:' .. sink)
note('hour:' .. ARGV[4])
if ARGV[5] ~= '' and tonumber(ARGV[5]) > tonumber(redis.call('HGET', export, 'head:' .. sink) or 0) then
  redis.call('HSET', export, 'head:' .. sink, ARGV[5])
end
redis.call('PEXPIRE', export, STATE_TTL_MS)
local seq = redis.call('HGET', state, 'seq')
if not seq then return 1 end

local everywhere = point.seq
for name in string.gmatch(ARGV[8], '[^,]+') do everywhere = math.min(everywhere, noted('sink:' .. name)) end
-- Never back: a sink that was added now has its own way to go, and is no reason to refuse calls. Neither is what was
-- there before anything was exported.
local before = tonumber(redis.call('HGET', state, 'exported') or seq)
redis.call('HSET', state, 'exported', int(math.max(before, everywhere)))
if everywhere == tonumber(seq) then redis.call('PEXPIRE', audit, TRAIL_TTL_MS) else redis.call('PERSIST', audit) end

-- Once an hour: trim to a point whose hash is known, so that the chain can always be taken up where the trail begins.
local hour = math.floor(wall_ms() / HOUR_MS)
if redis.call('HGET', export, 'trimmed') == int(hour) then return 1 end
redis.call('HSET', export, 'trimmed', int(hour))
local base, fields = nil, redis.call('HKEYS', export)
for _, name in ipairs(fields) do
  local of = tonumber(string.match(name, '^hour:(%d+)$') or hour)
  if of < hour - KEEP_HOURS and noted(name) <= everywhere then
    if not base or noted(name) > noted(base) then base = name end
  end
end
if not base then return 1 end
local last = noted(base)
redis.call('HSET', export, 'base', redis.call('HGET', export, base))
redis.call('XTRIM', audit, 'MINID', int(last + 1))
for _, name in ipairs(fields) do
  if string.match(name, '^hour:') and noted(name) <= last then redis.call('HDEL', export, name) end
end
return 1
