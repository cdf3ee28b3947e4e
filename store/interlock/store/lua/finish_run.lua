-- Ends a run: its key is completed or failed. All that was needed to do it goes.
--
-- KEYS  1 lease  2 work  3 queue  4 state  5 failures
-- ARGV  1 token  2 status: completed or failed  3 result  4 result_hash  5 error_code  6 channel  7 name: by which it is
--       waited for
-- Returns  1, or 0 if the token is no longer the run's (nothing is written)
-- Atomic because a run ends once, and only by who holds it.
--
-- include: clock
-- include: lease
-- include: queue
local entry, worker = held_by(KEYS[2], ARGV[1])
if not entry then return 0 end
local at = { key = KEYS[1], lease_id = ARGV[1], version = '', channel = ARGV[6], name = ARGV[7],
  failures = KEYS[5] }
local word = settle(at, clock(KEYS[4]), ARGV[2], '', { 'result', ARGV[3], 'result_hash', ARGV[4], 'error_code', ARGV[5] })
if word[1] ~= 'DONE' then return 0 end
redis.call('DEL', KEYS[2])
unqueue(KEYS[3], entry)
forget_worker(KEYS[3], worker)
return 1
