-- Gives an attempt's run back, to the month it was reserved in.
--
-- KEYS  1 usage  2 run
-- ARGV  none
-- Returns  1 if it had one that was neither given back nor used up, else 0
-- Atomic because a run is given back once.
local month = redis.call('GET', KEYS[2])
if not month or month == 'used' then return 0 end
redis.call('DEL', KEYS[2])
if redis.call('HEXISTS', KEYS[1], month) == 1 then redis.call('HINCRBY', KEYS[1], month, -1) end
return 1
