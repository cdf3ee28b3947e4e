-- Gives up an attempt whose decision its sidecar never heard, so that it can reserve nothing any more.
--
-- KEYS  1 attempt
-- ARGV  none
-- Returns  the call_id that the attempt reserved, to be settled as not sent; empty if it reserved nothing
-- Atomic because the decision may still be on its way: it is either found here, or will find this.
local ATTEMPT_TTL_MS = 120000
local seen = redis.call('GET', KEYS[1])
if not seen then redis.call('SET', KEYS[1], 'ABANDONED', 'PX', ATTEMPT_TTL_MS) end
if not seen or seen == 'ABANDONED' then return '' end
local decision = cmsgpack.unpack(seen)
return decision[1] == 'EXECUTE' and decision[3] or ''
