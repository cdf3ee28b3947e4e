-- The trail of what was changed above the agents is kept this long, and is never longer than about so many events.
local CHANGES_TTL_MS, MAX_CHANGES = 400 * 86400000, 100000

-- Appends an event that is no agent's to the trail of a namespace, or of all of them.
local function note(at, event)
  event.call, event.charged = '', 0
  append(at.state, at.audit, clock(at.state), event, false)
  redis.call('PEXPIRE', at.audit, CHANGES_TTL_MS)
  redis.call('XTRIM', at.audit, 'MAXLEN', '~', MAX_CHANGES)
end

-- Raises the epoch on which decisions rest, and tells the engines, so that those learn at once which have nothing to
-- decide just now. That word may be lost: every decision compares epochs itself.
local function announce(at, channel, name)
  redis.call('PUBLISH', channel, name)
  return redis.call('INCR', at.epoch)
end

-- Both: what is changed, and by whom.
local function change(at, channel, name, event)
  note(at, event)
  return announce(at, channel, name)
end
