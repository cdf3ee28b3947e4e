-- Appends the folded refusals of an agent, so that who reads its trail misses none.
--
-- KEYS  1 state  2 audit  3 folds
-- ARGV  1 early 1|0: also in the minute that is still running, which is allowed a few times in each
-- Returns  1 if anything was appended, else 0
-- Atomic because each refusal must be counted in exactly one event.
--
-- include: clock
-- include: trail
local folding, exported = unpack(redis.call('HMGET', KEYS[1], 'folding', 'exported'))
if not folding then return 0 end
local now = clock(KEYS[1])
local over = folding ~= minute_of(now)
if not over then
  if ARGV[1] ~= '1' or redis.call('HINCRBY', KEYS[3], 'early', 1) > EARLY_READS then return 0 end
end
unfold(KEYS[1], KEYS[2], KEYS[3], now, exported, over)
return 1
