-- A namespace's queue of runs is a stream with one consumer group; an entry names a run.
local WORKERS = 'workers'

-- Queues a run of which nothing is known yet.
local function enqueue(queue, work, run, what)
  if redis.call('EXISTS', queue) == 0 then redis.call('XGROUP', 'CREATE', queue, WORKERS, '0', 'MKSTREAM') end
  local entry = redis.call('XADD', queue, '*', 'run', run)
  redis.call('DEL', work)
  redis.call('HSET', work, 'entry', entry, 'plan', what.plan, 'agent', what.agent, 'key_address', what.key_address)
end

-- Takes an entry out for good; a queue that is empty goes, and its group with it.
local function unqueue(queue, entry)
  if redis.call('EXISTS', queue) == 0 then return end
  redis.call('XACK', queue, WORKERS, entry)
  redis.call('XDEL', queue, entry)
  if redis.call('XLEN', queue) == 0 then redis.call('DEL', queue) end
end

-- Takes a run out of its queue, whoever works on it. Returns {entry, what it was queued with, how many actions are over,
-- whether a worker had begun it 1|0}; of what is in no queue, NONE.
local NONE = { '', '', 0, 0 }

local function dequeue(queue, work)
  local entry, plan, done, worker = unpack(redis.call('HMGET', work, 'entry', 'plan', 'done', 'worker'))
  if not entry then return NONE end
  redis.call('DEL', work)
  unqueue(queue, entry)
  return { entry, plan, tonumber(done or 0), worker and 1 or 0 }
end

-- The entry of a run and its worker; nil if the token is not, or no longer, the one that the run is held by.
local function held_by(work, shown)
  local token, entry, worker = unpack(redis.call('HMGET', work, 'token', 'entry', 'worker'))
  if token and token ~= '' and token == shown then return entry, worker end
end

-- Forgets a worker that the group knows no entry of: its name would stay for ever.
local function forget_worker(queue, worker)
  if redis.call('EXISTS', queue) == 0 or worker == '' then return end
  if #redis.call('XPENDING', queue, WORKERS, '-', '+', 1, worker) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', queue, WORKERS, worker)
  end
end
