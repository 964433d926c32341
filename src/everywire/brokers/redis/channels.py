"""The scripts of channels, which run inside Redis: each is one atomic step on the keys of one channel.

A channel has three keys under one tag: ``m``, a hash with what is known of it; ``s``, a stream with its
publications under the ids ``<offset>-0``; ``k``, a hash with its idempotency keys. All are made at once and
stay until the channel is forgotten. A fourth, ``t``, remembers for some minutes at what offset that was.

A script is given the key ``m`` only and makes the names of the others from it. So a channel can be made
while a cluster moves its slot, which no command of several keys could do. When a channel's keys lie on two
servers at that time, one of the three is missing, and a script that sees it does nothing and says ``again``.
(Where nothing is moved a missing key was evicted, and `REPAIR` begins it anew.)

Fields of ``m``: ``e`` epoch, ``f`` and ``l`` first and last offset, ``o`` the offset it was made or begun
anew at, ``c`` what all its publications cost so far, ``b`` what those before the first kept one did, ``t``
the first one's time, ``a`` the last one's, ``w`` until when somebody watches it, ``u`` until when it is kept
by a window of its own, ``kn kb ka`` that window.
"""

from __future__ import annotations

from typing import Final

from everywire.brokers.redis.scripts import TICKET_MS, TIME, TOMB_MS, script

__all__ = ["APPEND", "CHANNEL_SCRIPTS", "DROP", "HEADS", "KEEP", "LOOK", "PROBE", "READ", "REPAIR", "TRIM"]

_CHANNEL: Final = (
    TIME
    + """
local FIELDS = {'e','f','l','o','c','b','t','a','w','u','kn','kb','ka'}
local function names(meta)
  local base = string.sub(meta, 1, -2)
  return base .. 's', base .. 'k', base .. 't'
end
local function load(meta)
  local v = redis.call('HMGET', meta, unpack(FIELDS))
  if not v[1] or not v[3] then return nil end
  local stream, keys = names(meta)
  local is_split = redis.call('EXISTS', stream) + redis.call('EXISTS', keys) < 2
  local m = {e = v[1]}
  for i = 2, #FIELDS do m[FIELDS[i]] = tonumber(v[i] or 0) end
  return m, is_split
end
local function begin_stream(stream)
  redis.call('DEL', stream)
  redis.call('XADD', stream, '0-1', 'r', '')
  redis.call('XTRIM', stream, 'MAXLEN', 0)
end
local function begin_keys(keys)
  redis.call('DEL', keys)
  redis.call('HSET', keys, 'f', 1, 'n', 1)
end
local function adopt(meta, m, epoch)
  if m.e ~= epoch and newer(epoch, m.e) then
    m.e = epoch
    redis.call('HSET', meta, 'e', epoch)
  end
  return m.e == epoch
end
local function entry(one)
  local fields = one[2]
  return tonumber(string.match(one[1], '^%d+')), tonumber(fields[4]), tonumber(fields[6])
end
local function begin_at(meta, stream, m, first, before, time)
  if first > m.l then first, before, time = m.l + 1, m.c, 0 end
  -- First what may be refused when Redis' memory is full, so that nothing is done by halves.
  redis.call('HSET', meta, 'f', str(first), 'b', str(before), 't', str(time))
  m.f, m.b, m.t = first, before, time
  if first > m.l then
    redis.call('XTRIM', stream, 'MAXLEN', 0)
  else
    redis.call('XTRIM', stream, 'MINID', str(first))
  end
end
local function settle(meta, stream, m, now, most, bytes, age)
  if m.u > 0 then
    if m.u > now then
      most, bytes, age = m.kn, m.kb, m.ka
    else
      m.u = 0
      redis.call('HDEL', meta, 'u')
      begin_at(meta, stream, m, m.l + 1)
    end
  end
  if m.f > m.l then return end
  local lowest, oldest = m.l - most + 1, now - age
  if m.f >= lowest and (m.c - m.b <= bytes or m.f == m.l) and m.t >= oldest then return end
  local from, count = math.max(m.f, lowest), 1
  while from <= m.l do
    local found = redis.call('XRANGE', stream, str(from), '+', 'COUNT', count)
    for _, one in ipairs(found) do
      local offset, before, time = entry(one)
      if (m.c - before <= bytes or offset == m.l) and time >= oldest then
        begin_at(meta, stream, m, offset, before, time)
        return
      end
      from = offset + 1
    end
    if #found < count then break end
    count = math.min(count * 4, 256)
  end
  begin_at(meta, stream, m, m.l + 1)
end
local function head(m) return {m.e, m.f, m.l, (m.f == m.o) and 1 or 0} end
local function make(meta, epoch, now, floor, ticket)
  if floor == '' then return nil, 'absent' end
  floor = tonumber(floor)
  local stream, keys, tomb = names(meta)
  if real_ms() - tonumber(ticket) > TICKET_MS or tonumber(redis.call('GET', tomb) or 0) > floor then
    return nil, 'late'
  end
  begin_stream(stream)
  begin_keys(keys)
  local first = str(floor + 1)
  redis.call('HSET', meta, 'e', epoch, 'f', first, 'l', str(floor), 'o', first, 'c', 0, 'b', 0, 't', 0,
    'a', str(now))
  return load(meta)
end
""".replace("TICKET_MS", str(TICKET_MS))
)

_APPEND: Final = """
local meta = KEYS[1]
local stream, keys = names(meta)
local epoch, now = ARGV[1], time_ms(ARGV[2])
local key_ttl, most_keys = tonumber(ARGV[6]), tonumber(ARGV[7])
local subject, verb, node, most_hint = ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11])
local m, is_split = load(meta)
local is_new = not m
if is_split then return {'again'} end
if is_new then
  local reason
  m, reason = make(meta, epoch, now, ARGV[12], ARGV[13])
  if not m then return {reason} end
elseif not adopt(meta, m, epoch) then
  return {'epoch', m.e}
else
  settle(meta, stream, m, now, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
end
local previous, total, records = m.l, 0, {}
local results = {'ok', m.e, is_new and 0 or previous, now}
local function known(key, fingerprint)
  local value = redis.call('HGET', keys, key)
  if not value then return nil end
  local offset, ends, _, at = string.match(value, '^(%d+) (%d+) (%d+) ()')
  if tonumber(ends) <= now then return nil end
  return string.sub(value, at) == fingerprint and -tonumber(offset) or 0
end
local function prune(first, next)
  for _ = 1, 4 do
    if first >= next then break end
    local key = redis.call('HGET', keys, 'o' .. str(first))
    local value = key and redis.call('HGET', keys, key)
    if value then
      local ends, number = string.match(value, '^%d+ (%d+) (%d+) ')
      if tonumber(number) == first then
        if tonumber(ends) > now and next - first <= most_keys then break end
        redis.call('HDEL', keys, key)
      end
    end
    redis.call('HDEL', keys, 'o' .. str(first))
    first = first + 1
  end
  redis.call('HSET', keys, 'f', str(first))
end
local function remember(key, fingerprint)
  local at = redis.call('HMGET', keys, 'f', 'n')
  local first, next = tonumber(at[1] or 1), tonumber(at[2] or 1)
  local value = str(m.l) .. ' ' .. str(now + key_ttl) .. ' ' .. str(next) .. ' ' .. fingerprint
  redis.call('HSET', keys, key, value, 'o' .. str(next), key, 'n', str(next + 1))
  prune(first, next + 1)
end
for i = 14, #ARGV, 5 do
  local record, key = ARGV[i], ARGV[i + 3]
  local result = key ~= '' and known(key, ARGV[i + 4])
  if not result then
    if m.f > m.l then m.b, m.t = m.c, now end
    m.l = m.l + 1
    redis.call('XADD', stream, str(m.l) .. '-0', 'r', record, 'c', str(m.c), 't', str(now), 'n', ARGV[i + 2])
    m.c = m.c + tonumber(ARGV[i + 1])
    total = total + #record
    records[#records + 1] = record
    if key ~= '' then remember(key, ARGV[i + 4]) end
    result = m.l
  end
  results[#results + 1] = result
end
if m.l > previous then
  redis.call('HSET', meta, 'l', str(m.l), 'c', str(m.c), 'b', str(m.b), 't', str(m.t), 'a', str(now))
  settle(meta, stream, m, now, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
  local since = str(is_new and 0 or previous)
  local parts = {m.e .. ' ' .. since .. ' ' .. str(m.l) .. ' ' .. str(now) .. ' ' .. node .. '\\n'}
  if total <= most_hint then
    for _, record in ipairs(records) do
      parts[#parts + 1] = struct.pack('>I4', #record)
      parts[#parts + 1] = record
    end
  end
  redis.call(verb, subject, table.concat(parts))
end
return results
"""

_KEEP: Final = """
local meta = KEYS[1]
local stream, keys = names(meta)
local epoch, now = ARGV[1], time_ms(ARGV[2])
local m, is_split = load(meta)
if is_split then return {'again'} end
if not m then
  local reason
  m, reason = make(meta, epoch, now, ARGV[3], ARGV[4])
  if not m then return {reason} end
elseif not adopt(meta, m, epoch) then
  return {'epoch', m.e}
else
  settle(meta, stream, m, now, tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]))
end
if ARGV[9] == '1' then
  begin_at(meta, stream, m, m.l + 1)
  m.o = m.l + 1
end
m.kn, m.kb, m.ka, m.u = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), now + tonumber(ARGV[8])
redis.call('HSET', meta, 'o', str(m.o), 'kn', str(m.kn), 'kb', str(m.kb), 'ka', str(m.ka), 'u', str(m.u))
settle(meta, stream, m, now, m.kn, m.kb, m.ka)
return {'ok', unpack(head(m))}
"""

_HEADS: Final = """
local epoch, now, watch = ARGV[1], time_ms(ARGV[2]), tonumber(ARGV[3])
local results = {}
for i, meta in ipairs(KEYS) do
  local stream = names(meta)
  local at = i * 4
  local m, is_split = load(meta)
  if is_split then return {'again'} end
  if m then
    adopt(meta, m, epoch)
    settle(meta, stream, m, now, tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))
    if ARGV[at + 3] == '1' and m.w < now + watch / 2 then
      redis.call('HSET', meta, 'w', str(now + watch))
    end
    results[#results + 1] = head(m)
  else
    results[#results + 1] = 0
  end
end
return results
"""

_READ: Final = """
local meta = KEYS[1]
local stream = names(meta)
local now, after, left, room = time_ms(ARGV[2]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local m, is_split = load(meta)
if is_split then return {'again'} end
if not m then return 0 end
adopt(meta, m, ARGV[1])
settle(meta, stream, m, now, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]))
local entries, count, from = {}, 8, math.max(after + 1, m.f)
while from <= m.l and left > 0 and room >= 0 do
  local found = redis.call('XRANGE', stream, str(from), '+', 'COUNT', math.min(count, left))
  if #found == 0 then
    begin_at(meta, stream, m, m.l + 1)
    break
  end
  for _, one in ipairs(found) do
    local fields = one[2]
    room = room - tonumber(fields[8])
    if room < 0 and #entries > 0 then break end
    entries[#entries + 1] = {tonumber(string.match(one[1], '^%d+')), tonumber(fields[6]), fields[2]}
    left = left - 1
    from = entries[#entries][1] + 1
  end
  count = math.min(count * 2, 256)
end
return {head(m), entries}
"""

_TRIM: Final = """
local m, is_split = load(KEYS[1])
if is_split then return {'again'} end
if not m then return 0 end
adopt(KEYS[1], m, ARGV[1])
local stream = names(KEYS[1])
begin_at(KEYS[1], stream, m, m.l + 1)
return head(m)
"""

_PROBE: Final = """
local m, is_split = load(KEYS[1])
if is_split then return {'again'} end
if not m then return 0 end
local stream = names(KEYS[1])
if ARGV[2] ~= '' then adopt(KEYS[1], m, ARGV[2]) end
local found = redis.call('XRANGE', stream, ARGV[1], ARGV[1], 'COUNT', 1)
local digest = ''
if found[1] then digest = string.sub(redis.sha1hex(found[1][2][2]), 1, 16) end
return {m.e, m.f, m.l, digest}
"""

_REPAIR: Final = """
local m, is_split = load(KEYS[1])
if not m or not is_split then return 0 end
local stream, keys = names(KEYS[1])
if redis.call('EXISTS', keys) == 0 then begin_keys(keys) end
if redis.call('EXISTS', stream) == 0 then
  begin_stream(stream)
  begin_at(KEYS[1], stream, m, m.l + 1)
end
return 1
"""

_BUSY: Final = """
local function busy_until(meta, stream, keys, m, now, is_forced)
  if m.u > now then return m.u end
  if m.w > now then return m.w end
  if is_forced then return nil end
  settle(meta, stream, m, now, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
  if m.f <= m.l then return math.max(m.a + tonumber(ARGV[4]), now) + 1 end
  local at = redis.call('HMGET', keys, 'f', 'n')
  if tonumber(at[1] or 1) < tonumber(at[2] or 1) and m.a + tonumber(ARGV[5]) > now then
    return m.a + tonumber(ARGV[5]) + 1
  end
  return nil
end
local now = time_ms(ARGV[1])
local m, is_split = load(KEYS[1])
if is_split then return {'busy', now + 1000} end
if not m then return {'gone', 0} end
local stream, keys, tomb = names(KEYS[1])
local ends = busy_until(KEYS[1], stream, keys, m, now, ARGV[6] == '1')
if ends then return {'busy', ends} end
"""

_LOOK: Final = _BUSY + "return {'idle', m.l}"

_DROP: Final = (
    _BUSY
    + """
if m.l > tonumber(ARGV[7]) then return {'busy', now + 1000} end
redis.call('SET', tomb, str(m.l), 'PX', TOMB_MS)
redis.call('DEL', stream)
redis.call('DEL', keys)
redis.call('DEL', KEYS[1])
return {'dropped', m.l}
""".replace("TOMB_MS", str(TOMB_MS))
)

APPEND: Final = script("append", _CHANNEL + _APPEND)
KEEP: Final = script("keep", _CHANNEL + _KEEP)
HEADS: Final = script("heads", _CHANNEL + _HEADS)
READ: Final = script("read", _CHANNEL + _READ)
TRIM: Final = script("trim", _CHANNEL + _TRIM)
PROBE: Final = script("probe", _CHANNEL + _PROBE)
REPAIR: Final = script("repair", _CHANNEL + _REPAIR)
LOOK: Final = script("look", _CHANNEL + _LOOK)
DROP: Final = script("drop", _CHANNEL + _DROP)

CHANNEL_SCRIPTS: Final = (APPEND, KEEP, HEADS, READ, TRIM, PROBE, REPAIR, LOOK, DROP)
