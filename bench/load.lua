-- What wrk sends: POST of a small JSON body over one thread.
--
-- args: MODE ("differ": no body is sent twice, "repeat": always the same one), BODY (holds a number of twelve zeros,
--       which is counted up where bodies differ)
-- Prints one line at the end, RESULT and a JSON object: times in µs, errors counted by kind.
wrk.method = "POST"

local NUMBER = string.rep("0", 12)

function init(args)
  local same = wrk.format(nil, nil, nil, args[2])
  if args[1] == "repeat" then
    request = function() return same end
    return
  end
  -- Cut once, joined for every call: to format each request anew would cost wrk more than nginx needs to serve it.
  local from, to = same:find(NUMBER, 1, true)
  local head, tail, sent = same:sub(1, from - 1), same:sub(to + 1), 0
  request = function()
    sent = sent + 1
    return head .. string.format("%012d", sent) .. tail
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"calls":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
