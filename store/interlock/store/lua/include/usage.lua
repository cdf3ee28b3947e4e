-- What a namespace used, by UTC month: "<YYYY-MM>" are the runs of a plan that limits them, "<what>:<YYYY-MM>" all else.
-- The running month and the 12 before it are kept. Needs month.lua.
local function count(usage, what, month, by)
  local field = what == '' and month or what .. ':' .. month
  local counted = redis.call('HINCRBY', usage, field, by)
  if counted ~= by then return counted end
  local oldest = string.format('%04d', tonumber(string.sub(month, 1, 4)) - 1) .. string.sub(month, 5)
  for _, other in ipairs(redis.call('HKEYS', usage)) do
    local of = string.match(other, '%d%d%d%d%-%d%d$')
    if of and of < oldest then redis.call('HDEL', usage, other) end
  end
  return counted
end

local function used(usage, what, month)
  return tonumber(redis.call('HGET', usage, what == '' and month or what .. ':' .. month) or 0)
end
