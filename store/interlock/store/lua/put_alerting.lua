-- Says where a namespace's alerts go, or (without a document) that it has no word of its own.
--
-- KEYS  1 alerting  2 epoch  3 state  4 audit
-- ARGV  1 document  2 facts  3 channel  4 namespace
-- Returns  1
-- Atomic because a change must leave its event.
--
-- include: clock
-- include: trail
-- include: change
if ARGV[1] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[1]) end
change({ epoch = KEYS[2], state = KEYS[3], audit = KEYS[4] }, ARGV[3], ARGV[4],
  { type = 'alerting', tool = '', verdict = ARGV[1] == '' and 'DELETED' or 'SET', reason = '', facts = ARGV[2] })
return 1
