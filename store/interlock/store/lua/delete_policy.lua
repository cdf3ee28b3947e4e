-- Deletes an agent's policy under the next version.
--
-- KEYS  1 config  2 state  3 audit  4 folds
-- ARGV  1 facts  2 backlog_cap  3 version it must have, `*` for any
-- Returns  the new version, 0 if there is no policy, or -1 if it has another version (nothing is written)
-- Atomic because a version must never name two policies, and a change must leave its event.
--
-- include: clock
-- include: trail
local version, policy = unpack(redis.call('HMGET', KEYS[1], 'version', 'policy'))
if ARGV[3] ~= '*' and (version or '0') ~= ARGV[3] then return -1 end
if not policy then return 0 end
redis.call('HDEL', KEYS[1], 'policy', 'managed_by')
expect_export(KEYS[2], ARGV[2])
record(KEYS[2], KEYS[3], KEYS[4], clock(KEYS[2]), { type = 'policy', tool = '', call = '', verdict = 'DELETED', reason = '',
  charged = 0, facts = ARGV[1] })
return redis.call('HINCRBY', KEYS[1], 'version', 1)
