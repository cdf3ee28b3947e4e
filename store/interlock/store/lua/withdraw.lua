-- Takes back a decision that reserved nothing, because it was judged on a switch that has moved since.
--
-- KEYS  1 state  2 attempt  3 audit  4 folds  5 minutes  6 hours  7 days, and for a call of a run: 8 strand  9 running
-- ARGV  1 tool  2 call_id  3 verdict  4 facts  5 counted 1|0: whether it was recorded, which a wait is not, and for a call
--       of a run: 6 attempt_id
-- Returns  1 if the decision stood, 0 if it was taken back before
-- Atomic because the attempt must be forgotten in the same step that records why.
--
-- include: clock
-- include: trail
-- include: month
-- include: windows
-- include: timeline
-- include: run
local ATTEMPT_TTL_MS = 120000
local left_ms = redis.call('PTTL', KEYS[2])
if redis.call('DEL', KEYS[2]) == 0 then return 0 end
local now, windows = clock(KEYS[1]), { minutes = KEYS[5], hours = KEYS[6], days = KEYS[7] }
if ARGV[5] == '1' then
  -- The attempt lives for a fixed time, which tells when it was decided.
  count_unreserved(windows, now, math.min(now, now - ATTEMPT_TTL_MS + left_ms), ARGV[3], -1)
end
record(KEYS[1], KEYS[3], KEYS[4], now, { type = 'withdrawal', tool = ARGV[1], call = ARGV[2], verdict = ARGV[3],
  reason = 'superseded', charged = 0, facts = ARGV[4] })
if KEYS[8] then untell(run_of(KEYS[8], KEYS[9], KEYS[1]), ARGV[6], '') end
return 1
