-- Moves on where an agent's trail is watched, and puts the alerts of that step into the outbox.
--
-- KEYS  1 watched  2 alerts  3 alerted  4 outbox  5 dead  6 deliveries
-- ARGV  1 field  2 before: the record that must stand there, empty for none  3 after
--       4 raised: JSON list of {id, document, channels}
-- Returns  1, or 0 if another record stands there (nothing is written)
-- Atomic because an alert must be neither lost nor raised twice, whenever the watcher is killed.
--
-- include: clock
-- include: alerts
local at = { alerts = KEYS[2], alerted = KEYS[3], outbox = KEYS[4], dead = KEYS[5], deliveries = KEYS[6] }
local WATCHED_TTL_MS = 400 * 86400000

if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], WATCHED_TTL_MS)

local raised = cjson.decode(ARGV[4])
if #raised == 0 then return 1 end
local now = wall_ms()
for _, alert in ipairs(raised) do
  redis.call('HSET', at.alerts, alert.id, alert.document)
  redis.call('ZADD', at.alerted, int(now), alert.id)
  for _, channel in ipairs(alert.channels) do
    redis.call('ZADD', at.outbox, int(now), alert.id .. '|' .. channel)
    redis.call('HSET', at.deliveries, alert.id .. '|' .. channel, '{}')
  end
end
prune(at, now)
for _, key in pairs(at) do redis.call('PEXPIRE', key, ALERTS_TTL_MS) end
return 1
