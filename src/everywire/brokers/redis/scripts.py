"""The scripts that run inside Redis, beside those of channels: the store's registry, leases, values.

The registry is a hash (``epoch``, ``floor``), a sorted set of the servers that were seen (by their run ids,
and since when), and a sorted set of all channels by when they should be looked at again. Each script is one
atomic step on the keys of one hash slot.

An epoch is ``<time in hexadecimal>-<random>``. Times only grow, so that of two epochs it is known which is
newer; a channel takes over a newer one, and never an older one. Numbers are written with ``%.0f``: Lua would
write large ones with an exponent. Nothing is newer than Redis 6.2, but for ``SPUBLISH`` on a cluster.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final, NamedTuple

__all__ = [
    "CLAIM",
    "ENTER",
    "FINISH",
    "LEASE",
    "MEMBERS",
    "ONCE",
    "RAISE",
    "REGISTER",
    "RENEW",
    "SCRIPTS",
    "Script",
]

TICKET_MS: Final = 30_000
"""How long after the floor was read a channel may be made above it, by Redis' own clock."""
TOMB_MS: Final = 4 * TICKET_MS
"""How long it is remembered where a channel was forgotten: longer than any ticket, by far."""


class Script(NamedTuple):
    """A script's name, text, and the digest by which it is called."""

    name: str
    text: str
    sha: str


def script(name: str, text: str) -> Script:
    """Return a script with its digest."""
    return Script(name, text, sha1(text.encode()).hexdigest())


TIME: Final = """
local function str(n) return string.format('%.0f', n) end
local function real_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function time_ms(given)
  if given ~= '' then return tonumber(given) end
  return real_ms()
end
local function age_of(epoch) return tonumber(string.match(epoch, '^(%x+)%-') or '0', 16) end
local function newer(one, other)
  local a, b = age_of(one), age_of(other)
  return a > b or (a == b and one > other)
end
"""

_REGISTRY: Final = (
    TIME
    + """
local function begin(store, old, above, random)
  local at = real_ms()
  if old then at = math.max(at, age_of(old) + 1) end
  if above ~= '' then at = math.max(at, age_of(above) + 1) end
  local epoch = string.format('%x', at) .. '-' .. random
  redis.call('HSET', store, 'epoch', epoch)
  return epoch
end
local function current(store, random)
  local found = redis.call('HMGET', store, 'epoch', 'floor')
  return found[1] or begin(store, nil, '', random), tonumber(found[2] or 0)
end
"""
)

_ENTER: Final = """
local store, hold, runs = KEYS[1], tonumber(ARGV[2]), KEYS[2]
local epoch, floor = current(store, ARGV[1])
local now, wait = real_ms(), 0
local is_first = redis.call('EXISTS', runs) == 0
for i = 3, #ARGV do
  local since = redis.call('ZSCORE', runs, ARGV[i])
  if not since then
    since = is_first and 0 or now
    redis.call('ZADD', runs, since, ARGV[i])
    redis.call('ZREMRANGEBYRANK', runs, 0, -1001)
  end
  wait = math.max(wait, tonumber(since) + hold - now)
end
return {epoch, floor, wait}
"""

_RENEW: Final = """
local epoch, floor = current(KEYS[1], ARGV[3])
if epoch == ARGV[1] or (ARGV[2] ~= '' and newer(ARGV[2], epoch)) then
  epoch = begin(KEYS[1], epoch, ARGV[2], ARGV[3])
end
return {epoch, floor}
"""

_REGISTER: Final = """
local store, channels = KEYS[1], KEYS[2]
local epoch, floor = current(store, ARGV[1])
local most, due = tonumber(ARGV[2]), str(time_ms(ARGV[3]) + tonumber(ARGV[4]))
local count, results = redis.call('ZCARD', channels), {epoch, floor, real_ms()}
for i = 5, #ARGV do
  local is_known = redis.call('ZSCORE', channels, ARGV[i])
  if is_known or count < most then
    redis.call('ZADD', channels, due, ARGV[i])
    if not is_known then count = count + 1 end
    results[#results + 1] = 1
  else
    results[#results + 1] = 0
  end
end
return results
"""

_CLAIM: Final = """
local now = time_ms(ARGV[1])
local claim = string.format('%.17g', now + TICKET_MS + tonumber(ARGV[4]) / 4096)
local found
if ARGV[3] == '1' then
  found = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1, 'WITHSCORES')
else
  found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', str(now), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
end
local results = {claim, str(now)}
for i = 1, #found, 2 do
  redis.call('ZADD', KEYS[1], claim, found[i])
  results[#results + 1] = {found[i], str(math.floor(tonumber(found[i + 1])))}
end
return results
""".replace("TICKET_MS", str(TICKET_MS))

_RAISE: Final = """
local floor = tonumber(redis.call('HGET', KEYS[1], 'floor') or 0)
if tonumber(ARGV[1]) > floor then redis.call('HSET', KEYS[1], 'floor', ARGV[1]) end
return 1
"""

_FINISH: Final = """
for i = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score and tonumber(score) == tonumber(ARGV[1]) then
    if ARGV[i + 1] == '' then
      redis.call('ZREM', KEYS[1], ARGV[i])
    else
      redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
    end
  end
end
return 1
"""


_LEASE: Final = """
local group, now, most = KEYS[1], time_ms(ARGV[1]), tonumber(ARGV[2])
local function has_ended(value) return tonumber(string.match(value, '^%d+ ') or 0) <= now end
local function drop_ended()
  local all, ended = redis.call('HGETALL', group), 0
  for i = 1, #all, 2 do
    if has_ended(all[i + 1]) then
      redis.call('HDEL', group, all[i])
      ended = ended + 1
    end
  end
  return ended
end
local some = redis.call('HRANDFIELD', group, 3, 'WITHVALUES')
for i = 1, #some, 2 do
  if has_ended(some[i + 1]) then redis.call('HDEL', group, some[i]) end
end
local refused, longest, count = 0, 0, redis.call('HLEN', group)
for i = 3, #ARGV, 3 do
  local is_new = redis.call('HEXISTS', group, ARGV[i]) == 0
  if is_new and count >= most then count = count - drop_ended() end
  if is_new and count >= most then
    refused = refused + 1
  else
    local ttl = tonumber(ARGV[i + 2])
    redis.call('HSET', group, ARGV[i], str(now + ttl) .. ' ' .. ARGV[i + 1])
    if is_new then count = count + 1 end
    longest = math.max(longest, ttl)
  end
end
if longest > 0 and redis.call('PTTL', group) < longest then redis.call('PEXPIRE', group, str(longest)) end
return refused
"""

_MEMBERS: Final = """
local now, results = time_ms(ARGV[1]), {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ends, at = string.match(all[i + 1], '^(%d+) ()')
  if ends and tonumber(ends) > now then
    results[#results + 1] = all[i]
    results[#results + 1] = string.sub(all[i + 1], at)
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return results
"""

_ONCE: Final = """
local found = redis.call('GET', KEYS[1])
if found then
  local ends = tonumber(string.match(found, '^%d+'))
  if ends == 0 or ends > time_ms(ARGV[1]) then return found end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return false
"""

ENTER: Final = script("enter", _REGISTRY + _ENTER)
RENEW: Final = script("renew", _REGISTRY + _RENEW)
REGISTER: Final = script("register", _REGISTRY + _REGISTER)
CLAIM: Final = script("claim", TIME + _CLAIM)
RAISE: Final = script("raise", _RAISE)
FINISH: Final = script("finish", _FINISH)
LEASE: Final = script("lease", TIME + _LEASE)
MEMBERS: Final = script("members", TIME + _MEMBERS)
ONCE: Final = script("once", TIME + _ONCE)

SCRIPTS: Final = (ENTER, RENEW, REGISTER, CLAIM, RAISE, FINISH, LEASE, MEMBERS, ONCE)
