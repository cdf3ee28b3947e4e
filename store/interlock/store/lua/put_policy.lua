-- Stores an agent's policy under the next version.
--
-- KEYS  1 config  2 state  3 audit  4 folds
-- ARGV  1 policy  2 facts  3 backlog_cap  4 managed_by, `*` to leave it  5 version it must have, `*` for any
-- Returns  the new version, or 0 if it has another one (nothing is written)
-- Atomic because a version must never name two policies, and a change must leave its event.
--
-- include: clock
-- include: trail
if ARGV[5] ~= '*' and (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[5] then return 0 end
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('HSET', KEYS[1], 'policy', ARGV[1])
if ARGV[4] ~= '*' then redis.call('HSET', KEYS[1], 'managed_by', ARGV[4]) end
expect_export(KEYS[2], ARGV[3])
record(KEYS[2], KEYS[3], KEYS[4], clock(KEYS[2]), { type = 'policy', tool = '', call = '', verdict = 'SET', reason = '',
  charged = 0, facts = ARGV[2] })
return version
