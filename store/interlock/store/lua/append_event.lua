-- Adds an event that was posted, or that a worker tells, to the timeline of its run.
--
-- KEYS  1 strand  2 told  3 state  4 runs  5 own_runs  6 agents
-- ARGV  1 event (JSON)  2 ts (unix s; empty: now)  3 run_id  4 agent
-- Returns  1 if it was added, 0 if it had been before
-- Atomic because an event is added once, and must be found by who reads its run.
--
-- include: clock
-- include: timeline
local STATE_TTL_MS = 400 * 86400000
if not redis.call('SET', KEYS[2], '1', 'NX', 'PX', STRAND_TTL_MS) then return 0 end
local now = clock(KEYS[3])
add_line(KEYS[1], KEYS[3], now, tonumber(ARGV[2]) or math.huge, ARGV[1])
redis.call('PEXPIRE', KEYS[3], STATE_TTL_MS)
note_run(KEYS[4], KEYS[5], KEYS[6], now, ARGV[3], ARGV[4])
return 1
