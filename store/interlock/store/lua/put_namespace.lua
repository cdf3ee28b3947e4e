-- Stores a namespace and raises its epoch; the new epoch is its revision.
--
-- KEYS  1 namespace  2 usage  3 epoch  4 state  5 audit
-- ARGV  1 expected: the revision it replaces, if none "0"  2 plan  3 default_policy  4 description
--       5 month  6 runs: let through in it so far, as the agents count them  7 channel  8 name  9 facts
--       10 run_handler
-- Returns  the revision, or 0 if another change came first (nothing is written)
-- Atomic because no decision may see the new plan or policy under the old epoch, and a name is created once.
--
-- include: clock
-- include: trail
-- include: change
local revision, created = unpack(redis.call('HMGET', KEYS[1], 'revision', 'created_at'))
if (revision or '0') ~= ARGV[1] then return 0 end
-- A plan without a limit counts nothing here. One that follows it begins where the agents are.
if tonumber(ARGV[6]) > tonumber(redis.call('HGET', KEYS[2], ARGV[5]) or 0) then
  redis.call('HSET', KEYS[2], ARGV[5], ARGV[6])
end
local epoch = change({ epoch = KEYS[3], state = KEYS[4], audit = KEYS[5] }, ARGV[7], ARGV[8],
  { type = 'namespace', tool = '', verdict = revision and 'SET' or 'CREATED', reason = '', facts = ARGV[9] })
redis.call('HSET', KEYS[1], 'plan', ARGV[2], 'default_policy', ARGV[3], 'description', ARGV[4], 'revision', epoch,
  'run_handler', ARGV[10], 'created_at', created or int(wall_ms()), 'deleted_at', '0')
return epoch
