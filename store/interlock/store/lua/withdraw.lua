-- Takes back a decision that reserved nothing, because it was judged on a switch that has moved since.
--
-- KEYS  1 state  2 attempt  3 audit  4 folds, and for a call of a run: 5 strand  6 running
-- ARGV  1 tool  2 call_id  3 verdict  4 facts, and for a call of a run: 5 attempt_id
-- Returns  1 if the decision stood, 0 if it was taken back before
-- Atomic because the attempt must be forgotten in the same step that records why.
--
-- include: clock
-- include: trail
-- include: timeline
-- include: run
if redis.call('DEL', KEYS[2]) == 0 then return 0 end
record(KEYS[1], KEYS[3], KEYS[4], clock(KEYS[1]), { type = 'withdrawal', tool = ARGV[1], call = ARGV[2], verdict = ARGV[3],
  reason = 'superseded', charged = 0, facts = ARGV[4] })
if KEYS[5] then untell(run_of(KEYS[5], KEYS[6], KEYS[1]), ARGV[5], '') end
return 1
