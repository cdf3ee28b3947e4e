-- Stores, replaces and deletes tools in one step and raises the namespace's epoch, the revision of all that is stored.
--
-- KEYS  1 tools  2 epoch
-- ARGV  1 changes: a JSON array of [field, revision it must have (0 for none), tool (JSON), `` to delete it or `=`]
-- Returns  the revision, or 0 if one of them was changed before (nothing is written)
-- Atomic because a replaced tool's secrets are carried over: two replacements must not lose one another's; and because
-- tools that are applied together hold together.
local changes = cjson.decode(ARGV[1])
for _, change in ipairs(changes) do
  if (redis.call('HGET', KEYS[1], change[1] .. '|revision') or '0') ~= change[2] then return 0 end
end
local epoch = redis.call('INCR', KEYS[2])
for _, change in ipairs(changes) do
  local field, tool = change[1], change[3]
  if tool == '' then
    redis.call('HDEL', KEYS[1], field, field .. '|revision')
  elseif tool ~= '=' then
    redis.call('HSET', KEYS[1], field, tool, field .. '|revision', epoch)
  end
end
return epoch
