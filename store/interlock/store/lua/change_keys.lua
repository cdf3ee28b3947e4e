-- Notes that a key of the namespace was made or revoked; a revocation raises the epoch.
--
-- KEYS  1 epoch  2 state  3 audit
-- ARGV  1 verdict CREATED|REVOKED  2 channel  3 namespace  4 facts
-- Returns  1
-- Atomic because a change must leave its event.
--
-- include: clock
-- include: trail
-- include: change
local at = { epoch = KEYS[1], state = KEYS[2], audit = KEYS[3] }
local event = { type = 'key', tool = '', verdict = ARGV[1], reason = '', facts = ARGV[4] }
-- An engine that does not know a key asks for it; one that does must be told to forget it.
if ARGV[1] == 'REVOKED' then change(at, ARGV[2], ARGV[3], event) else note(at, event) end
return 1
