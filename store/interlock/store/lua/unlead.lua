-- Gives the lease of an exporter or a watcher back, so that another need not wait for its end.
--
-- KEYS  1 lease
-- ARGV  1 holder
-- Returns  1 if it was held, else 0
-- Atomic because it may have been taken over meanwhile.
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'until', '0', 'holder', '')
return 1
