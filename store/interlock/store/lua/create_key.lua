-- Creates an API key unless one of that value ever existed, revoked ones included.
--
-- KEYS  1 key
-- ARGV  1 key_id  2 namespace  3 role  4 agent_id  5 label
-- Returns  unix ms of its creation, or 0 if it existed
-- Atomic because a revoked bootstrap key must never come back.
--
-- include: clock
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local now = int(wall_ms())
redis.call('HSET', KEYS[1], 'key_id', ARGV[1], 'namespace', ARGV[2], 'role', ARGV[3], 'agent_id', ARGV[4],
  'label', ARGV[5], 'created_at', now, 'revoked_at', '0')
return now
