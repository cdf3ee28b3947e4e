-- Stores, replaces and deletes tools in one step and raises the namespace's epoch, the revision of all that is stored.
--
-- KEYS  1 tools  2 namespace  3 epoch  4 state  5 audit
-- ARGV  1 changes: a JSON array of [field, revision it must have (0 for none), tool (JSON), `` to delete it or `=`]
--       2 plan: the namespace's, as the limit rests on it  3 limit of tools, -1 is none  4 channel  5 name  6 facts
-- Returns  the revision, 0 if one of them or the plan was changed before, -1 if there is no room (nothing is written)
-- Atomic because a replaced tool's secrets are carried over: two replacements must not lose one another's; because
-- tools that are applied together hold together; and because no two tools may both be the last that is allowed.
--
-- include: clock
-- include: trail
-- include: change
local changes, limit, grows = cjson.decode(ARGV[1]), tonumber(ARGV[3]), 0
for _, change in ipairs(changes) do
  if (redis.call('HGET', KEYS[1], change[1] .. '|revision') or '0') ~= change[2] then return 0 end
  if change[2] == '0' then grows = grows + 1 elseif change[3] == '' then grows = grows - 1 end
end
local plan, deleted = unpack(redis.call('HMGET', KEYS[2], 'plan', 'deleted_at'))
if (plan or '') ~= ARGV[2] or (deleted or '0') ~= '0' then return 0 end
-- A tool is two fields: itself and its revision.
if limit >= 0 and grows > 0 and redis.call('HLEN', KEYS[1]) / 2 + grows > limit then return -1 end

local at = { epoch = KEYS[3], state = KEYS[4], audit = KEYS[5] }
local epoch = announce(at, ARGV[4], ARGV[5])
for _, change in ipairs(changes) do
  local field, before, tool = unpack(change)
  if tool == '' then
    redis.call('HDEL', KEYS[1], field, field .. '|revision')
  elseif tool ~= '=' then
    redis.call('HSET', KEYS[1], field, tool, field .. '|revision', epoch)
  end
  if tool ~= '=' then
    local facts, scope, name = cjson.decode(ARGV[6]), string.match(field, '^([^|]*)|(.*)$')
    facts.scope_id, facts.before = scope, tonumber(before)
    note(at, { type = 'tool', tool = name, verdict = tool == '' and 'DELETED' or before == '0' and 'CREATED' or 'SET',
      reason = '', facts = cjson.encode(facts) })
  end
end
return epoch
