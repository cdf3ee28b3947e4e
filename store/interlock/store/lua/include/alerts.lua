-- Alerts of a namespace are kept this long, and no more than so many of them.
local ALERTS_TTL_MS, MAX_ALERTS = 30 * 86400000, 10000
local CHANNELS = { 'webhook', 'mail' }

-- A delivery is known by the alert and the channel.
local function deliveries_of(id)
  local members = {}
  for i, channel in ipairs(CHANNELS) do members[i] = id .. '|' .. channel end
  return members
end

-- Drops the oldest that are too old or too many, whatever became of them.
local function prune(at, now)
  while true do
    local id, raised_at = unpack(redis.call('ZRANGE', at.alerted, 0, 0, 'WITHSCORES'))
    if not id then return end
    if tonumber(raised_at) > now - ALERTS_TTL_MS and redis.call('ZCARD', at.alerted) <= MAX_ALERTS then return end
    local members = deliveries_of(id)
    redis.call('ZREM', at.alerted, id)
    redis.call('HDEL', at.alerts, id)
    redis.call('HDEL', at.deliveries, unpack(members))
    redis.call('ZREM', at.outbox, unpack(members))
    redis.call('ZREM', at.dead, unpack(members))
  end
end
