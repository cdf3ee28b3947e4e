-- Makes a worker that took an entry of the queue the holder of its run.
--
-- KEYS  1 lease  2 work  3 queue
-- ARGV  1 entry  2 token  3 worker  4 lease_ms
-- Returns  {OVER} if the run is (its entry goes), {HELD} if another's lease still holds, else
--       {BEGUN, plan, how many actions are over, how many workers were lost since one was, bytes of outcomes}
-- Atomic because a run has one holder, and who takes it over is told apart by a greater version.
--
-- include: clock
-- include: queue
local status = redis.call('HGET', KEYS[1], 'status')
local was = {}
was.entry, was.token, was.ends, was.worker, was.plan, was.done, was.lost, was.kept = unpack(redis.call('HMGET', KEYS[2],
  'entry', 'token', 'until', 'worker', 'plan', 'done', 'lost', 'kept'))
if status ~= 'in_progress' or was.entry ~= ARGV[1] then
  unqueue(KEYS[3], ARGV[1])
  if was.entry == ARGV[1] then redis.call('DEL', KEYS[2]) end
  return { 'OVER' }
end
local now = wall_ms()
if tonumber(was.ends or 0) > now then return { 'HELD' } end
local lost = tonumber(was.lost or 0)
if was.token and was.token ~= '' then lost = lost + 1 end
local ends = int(now + tonumber(ARGV[4]))
if was.worker then redis.call('HINCRBY', KEYS[1], 'version', 1) end
redis.call('HSET', KEYS[1], 'lease_id', ARGV[2], 'expires_at_ms', ends)
redis.call('HSET', KEYS[2], 'token', ARGV[2], 'worker', ARGV[3], 'until', ends, 'lost', lost)
if was.worker and was.worker ~= ARGV[3] then forget_worker(KEYS[3], was.worker) end
return { 'BEGUN', was.plan, tonumber(was.done or 0), lost, tonumber(was.kept or 0) }
