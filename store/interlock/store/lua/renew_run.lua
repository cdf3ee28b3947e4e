-- Prolongs a worker's lease of a run, and notes, if one is told, an action that is over.
--
-- KEYS  1 lease  2 work  3 queue
-- ARGV  1 token  2 lease_ms  3 index of the action, from 0, or "" for none  4 outcome: what came of it
-- Returns  1, or 0 if the token is no longer the run's (nothing is written)
-- Atomic because who was taken over must not write beside who took over.
--
-- include: clock
-- include: queue
local entry, worker = held_by(KEYS[2], ARGV[1])
if not entry then return 0 end
local ends = int(wall_ms() + tonumber(ARGV[2]))
redis.call('HSET', KEYS[2], 'until', ends)
redis.call('HSET', KEYS[1], 'expires_at_ms', ends)
-- The queue counts from here when it asks whether the worker is still there.
redis.call('XCLAIM', KEYS[3], WORKERS, worker, 0, entry, 'JUSTID')
if ARGV[3] ~= '' and redis.call('HSETNX', KEYS[2], 'outcome:' .. ARGV[3], ARGV[4]) == 1 then
  redis.call('HSET', KEYS[2], 'done', int(tonumber(ARGV[3]) + 1), 'lost', '0')
  redis.call('HINCRBY', KEYS[2], 'kept', #ARGV[4])
end
return 1
