-- Ends an API key. Its record stays, so that the value can never be created again.
--
-- KEYS  1 key
-- ARGV  none
-- Returns  unix ms of its revocation (of the first, if it was revoked before), or 0 if there is no such key
-- Atomic because the first revocation's time holds.
--
-- include: clock
local was = redis.call('HGET', KEYS[1], 'revoked_at')
if not was then return '0' end
if was ~= '0' then return was end
local now = int(wall_ms())
redis.call('HSET', KEYS[1], 'revoked_at', now)
return now
