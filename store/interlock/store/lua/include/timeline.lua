-- Timelines of runs. What one agent has in a run is a strand, a zset: the score is the second an event is ordered by, the
-- member "<unix ms it was recorded at>-<line> <JSON>", so that those of one second stand in the order of their recording.
local STRAND_TTL_MS, MAX_LINES = 7 * 86400000, 5000
local MAX_RUNS = 10000

-- Adds a line of JSON text to a strand. `second` is when it happened; nothing is ordered behind what comes later.
local function add_line(strand, state, now, second, text)
  local line = redis.call('HINCRBY', state, 'line', 1)
  redis.call('ZADD', strand, int(math.min(second, math.floor(now / 1000))), string.format('%013.0f-%012.0f %s', now, line, text))
  redis.call('PEXPIRE', strand, STRAND_TTL_MS)
  local beyond = redis.call('ZCARD', strand) - MAX_LINES
  if beyond > 0 then redis.call('ZREMRANGEBYRANK', strand, 0, beyond - 1) end
end

-- Puts a run into an index of runs, a zset by when something was last recorded of them.
local function touch_run(index, now, run_id)
  redis.call('ZADD', index, int(now), run_id)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', int(now - STRAND_TTL_MS))
  local beyond = redis.call('ZCARD', index) - MAX_RUNS
  if beyond > 0 then redis.call('ZREMRANGEBYRANK', index, 0, beyond - 1) end
  redis.call('PEXPIRE', index, STRAND_TTL_MS)
end

-- Notes that an agent (empty: the namespace itself) has something in a run: where the run's readers look for it.
local function note_run(runs, own_runs, agents, now, run_id, agent)
  touch_run(runs, now, run_id)
  if agent ~= '' then touch_run(own_runs, now, run_id) end
  redis.call('SADD', agents, agent)
  redis.call('PEXPIRE', agents, STRAND_TTL_MS)
end
