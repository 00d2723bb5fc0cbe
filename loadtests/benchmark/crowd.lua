-- The crowd: what each connection of wrk sends next.
--
-- Arguments after `--`
--   book FIRST SEATS TIMING…   take seat FIRST, FIRST + 1, …: SEATS to a showtime, all timings of a theatre, then the next
--   spread FIRST THEATRES METHOD PATH BODY TIMING…   as `send`, for another showtime each time, all in turn without a
--       pattern, from the one numbered FIRST on: `{theatre}` becomes `hall-00042`, `{timing}` one of the TIMINGs
--   send METHOD PATH HEADERS BODY   the same request again and again; HEADERS are lines `name: value`
--   cycle FILE   the requests of a file in turn, each ended by a zero byte
-- At the end one line tells what became of it, for crowd.py.

local threads = {}
local request_of

function setup(thread)
  table.insert(threads, thread)
end

local function whole(method, path, headers, body)
  local lines = { method .. ' ' .. path .. ' HTTP/1.1', 'Host: localhost' }
  for _, line in ipairs(headers) do
    lines[#lines + 1] = line
  end
  if body ~= '' then
    lines[#lines + 1] = 'Content-Type: application/json'
    lines[#lines + 1] = 'Content-Length: ' .. #body
  end
  return table.concat(lines, '\r\n') .. '\r\n\r\n' .. body
end

local function booking(first, seats, timings)
  -- Every booking has the same length, so its head is always the same.
  local body = '{"name":"Asha Rao","phone":"+919812345678","timing":"%s","theatre":"h%03d"}'
  local head = whole('POST', '/v1/tickets', {}, body:format(timings[1], 0)):match('^.-\r\n\r\n')
  return function()
    local showtime = math.floor((first + issued) / seats)
    issued = issued + 1
    return head .. body:format(timings[showtime % #timings + 1], math.floor(showtime / #timings))
  end
end

local function spread(first, theatres, method, path, body, timings)
  local showtimes = theatres * #timings
  return function()
    -- A prime that divides no such number of showtimes: every one comes once before any comes again.
    local showtime = (first + issued) * 48271 % showtimes
    issued = issued + 1
    local names = {
      theatre = ('hall-%05d'):format(math.floor(showtime / #timings)),
      timing = timings[showtime % #timings + 1],
    }
    return whole(method, (path:gsub('{(%l+)}', names)), {}, (body:gsub('{(%l+)}', names)))
  end
end

local function cycle(path)
  local requests = {}
  local file = assert(io.open(path, 'rb'))
  for request in file:read('*a'):gmatch('%Z+') do
    requests[#requests + 1] = request
  end
  file:close()
  return function()
    issued = issued + 1
    return requests[(issued - 1) % #requests + 1]
  end
end

function init(arguments)
  issued = 0
  if arguments[1] == 'spread' then
    local first, theatres, method, path, body = unpack(arguments, 2, 6)
    request_of = spread(tonumber(first), tonumber(theatres), method, path, body, { unpack(arguments, 7) })
  elseif arguments[1] == 'book' then
    request_of = booking(tonumber(arguments[2]), tonumber(arguments[3]), { unpack(arguments, 4) })
  elseif arguments[1] == 'cycle' then
    request_of = cycle(arguments[2])
  else
    local headers = {}
    for line in arguments[4]:gmatch('[^\n]+') do
      headers[#headers + 1] = line
    end
    local request = whole(arguments[2], arguments[3], headers, arguments[5] or '')
    request_of = function()
      issued = issued + 1
      return request
    end
  end
end

function request()
  return request_of()
end

function done(summary, latency)
  local total = 0
  for _, thread in ipairs(threads) do
    total = total + thread:get('issued')
  end
  local errors = summary.errors
  io.write(('crowd: {"issued":%d,"answered":%d,"rejected":%d,"errors":%d,"seconds":%.6f,'):format(
    total, summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6))
  io.write(('"p50_ms":%.3f,"p99_ms":%.3f,"p999_ms":%.3f}\n'):format(
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
