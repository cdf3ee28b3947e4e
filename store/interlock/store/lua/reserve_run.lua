-- Reserves one run of the UTC month for an attempt, if the namespace's plan leaves one.
--
-- KEYS  1 usage  2 run  3 state
-- ARGV  1 limit, -1 is none
-- Returns  {granted 1|0, runs used in the month, unix ms now}; an attempt that has its run keeps it
-- Atomic because no two attempts may both have the last run.
--
-- include: clock
-- include: month
-- include: usage
local LONGEST_MONTH_MS = 31 * 86400000
local now = clock(KEYS[3])
local month, limit = month_of(now), tonumber(ARGV[1])
local runs = used(KEYS[1], '', month)
if redis.call('EXISTS', KEYS[2]) == 1 then return { '1', int(runs), int(now) } end
if limit >= 0 and runs >= limit then return { '0', int(runs), int(now) } end
redis.call('SET', KEYS[2], month, 'PX', LONGEST_MONTH_MS)
return { '1', int(count(KEYS[1], '', month, 1)), int(now) }
