-- Locks a key, unless it is locked, and charges that to the UTC month.
--
-- KEYS  1 lock  2 usage  3 state  4 epoch
-- ARGV  1 basis: the epoch that what follows rests on  2 switch_reason: why nothing is granted, or empty  3 token: of this
--       asking  4 attempt_id: of the caller's, or empty  5 ttl_ms  6 limit: of a month, -1 is none  7 key  8 owner: agent
--       or empty  9 metadata: or empty
-- Returns  {word, ttl ms, first seen unix ms, used in the month, month}; the word is LOCKED, DUPLICATE, SWITCHED (by
--       switch_reason), EXHAUSTED (the limit), or MOVED (the epoch; nothing was written)
-- Atomic because of any number of callers one locks the key, and no two may both have the last of the month.
--
-- include: clock
-- include: month
-- include: usage
local lock, usage, limit = KEYS[1], KEYS[2], tonumber(ARGV[6])
if (redis.call('GET', KEYS[4]) or '0') ~= ARGV[1] then return { 'MOVED', '0', '0', '0', '' } end
local now = clock(KEYS[3])
local month = month_of(now)

local function told(word, ttl, first_seen)
  if word ~= 'LOCKED' then count(usage, 'blocked:make', month, 1) end
  return { word, ttl, first_seen, int(used(usage, 'make', month)), month }
end

local token, attempt, ttl, first_seen = unpack(redis.call('HMGET', lock, 'token', 'attempt', 'ttl', 'first_seen_at_ms'))
if token and (token == ARGV[3] or ARGV[4] ~= '' and attempt == ARGV[4]) and ARGV[2] == '' then
  return told('LOCKED', ttl, first_seen)
end
count(usage, 'requests:make', month, 1)
if ARGV[2] ~= '' then return told('SWITCHED', '0', '0') end
if token then return told('DUPLICATE', ttl, first_seen) end
if limit >= 0 and used(usage, 'make', month) >= limit then return told('EXHAUSTED', '0', '0') end
redis.call('HSET', lock, 'token', ARGV[3], 'attempt', ARGV[4], 'ttl', ARGV[5], 'first_seen_at_ms', int(now), 'key', ARGV[7],
  'owner', ARGV[8], 'metadata', ARGV[9])
redis.call('PEXPIRE', lock, ARGV[5])
count(usage, 'make', month, 1)
return told('LOCKED', ARGV[5], int(now))
