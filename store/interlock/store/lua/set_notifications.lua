-- Changes what a namespace wants to be told of.
--
-- KEYS  1 notifications  2 state  3 audit
-- ARGV  1 email  2 tool_errors  3 run_failures: each 1 or 0, `*` to leave it  4 facts
-- Returns  email, tool_errors and run_failures as they then are; nil for one that was never set
-- Atomic because a change must leave its event, and nobody's change may be undone by another's.
--
-- include: clock
-- include: trail
-- include: change
local function set(name, value)
  if value ~= '*' then redis.call('HSET', KEYS[1], name, value) end
end

set('email', ARGV[1])
set('tool_errors', ARGV[2])
set('run_failures', ARGV[3])
note({ state = KEYS[2], audit = KEYS[3] },
  { type = 'notifications', tool = '', verdict = 'SET', reason = '', facts = ARGV[4] })
return redis.call('HMGET', KEYS[1], 'email', 'tool_errors', 'run_failures')
