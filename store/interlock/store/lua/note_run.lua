-- Notes that an agent has something in a run, whose strand stands in the agent's own slot.
--
-- KEYS  1 runs  2 own_runs  3 agents
-- ARGV  1 run_id  2 agent
-- Returns  1
-- Atomic because whoever finds a run must find who has something in it.
--
-- include: clock
-- include: timeline
note_run(KEYS[1], KEYS[2], KEYS[3], wall_ms(), ARGV[1], ARGV[2])
return 1
