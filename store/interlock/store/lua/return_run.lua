-- Gives a run back before its lease is over, so that another worker may take it at once.
--
-- KEYS  1 work  2 queue
-- ARGV  1 token
-- Returns  1, or 0 if the token is no longer the run's (nothing is written)
-- Atomic because a run that was taken over is not given back by who lost it.
--
-- include: queue
local LONG_AGO_MS = 86400000000
local entry, worker = held_by(KEYS[1], ARGV[1])
if not entry then return 0 end
redis.call('HSET', KEYS[1], 'token', '', 'until', '0')
redis.call('XCLAIM', KEYS[2], WORKERS, worker, 0, entry, 'IDLE', LONG_AGO_MS, 'JUSTID')
return 1
