"""Letters in a Redis stream, oldest first, with a hash beside it that knows where each job's letter is.

Every change is one script, so that a letter is in both or in neither; adding one twice is adding it once. What Redis
acknowledges is as durable as its own settings make it: appendonly yes and appendfsync always lose nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import trio

from p2p.errors import CONFIG_INVALID, LEDGER_UNAVAILABLE, TetherError
from p2p.wire import decode, encode
from tetherd.dead_letters.letter import Letter
from tetherd.dead_letters.letters import FOUND

if TYPE_CHECKING:
    import coredis

ANSWER_S: Final = 1.0
"""Redis answers in a millisecond; whoever waits for a letter to be kept waits no longer than this."""
CONNECTIONS: Final = 4
RETRY_AFTER_S: Final = 5.0
CUT: Final = 500
"""Letters that one script forgets: Redis does nothing else meanwhile."""

_ADD: Final = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
local id = redis.call('XADD', KEYS[1], '*', 'job', ARGV[1], 'ended', ARGV[2], 'letter', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], id)
return 1
"""
_DROP: Final = """
local id = redis.call('HGET', KEYS[2], ARGV[1])
if not id then return 0 end
redis.call('XDEL', KEYS[1], id)
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
"""
_FIND: Final = """
local found, letters = {}, {}
for _, job in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.sub(job, 1, string.len(ARGV[1])) == ARGV[1] then table.insert(found, job) end
end
table.sort(found)
for rank, job in ipairs(found) do
    if rank > tonumber(ARGV[2]) then break end
    local id = redis.call('HGET', KEYS[2], job)
    table.insert(letters, redis.call('XRANGE', KEYS[1], id, id)[1][2][6])
end
return letters
"""
_FORGET: Final = """
local surplus, gone = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[2]), 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[3])) do
    if gone >= surplus and tonumber(entry[2][4]) >= tonumber(ARGV[1]) then break end
    redis.call('XDEL', KEYS[1], entry[1])
    redis.call('HDEL', KEYS[2], entry[2][2])
    gone = gone + 1
end
return gone
"""


class RedisLetters:
    """Implements `Letters`, in the order in which they came here. Made by `open_redis`."""

    def __init__(self, client: coredis.Redis[bytes], name: str, shown: str) -> None:
        self._client = client
        self._keys = [f"tether:dlq:{{{name}}}", f"tether:dlq:{{{name}}}:jobs"]
        self.shown: Final = shown

    async def add(self, letter: Letter) -> bool:
        return bool(await self._run(_ADD, letter.job.hex(), repr(letter.ended), encode(letter)))

    async def newest(self, limit: int) -> Sequence[Letter]:
        return await self._range("XREVRANGE", "+", "-", limit)

    async def oldest(self, limit: int) -> Sequence[Letter]:
        return await self._range("XRANGE", "-", "+", limit)

    async def find(self, prefix: str) -> Sequence[Letter]:
        return [decode(one, Letter) for one in await self._run(_FIND, prefix, FOUND)]

    async def drop(self, job: bytes) -> bool:
        return bool(await self._run(_DROP, job.hex()))

    async def forget(self, before: float, most: int) -> None:
        while await self._run(_FORGET, repr(before), most, CUT) == CUT:
            pass

    async def count(self) -> int:
        return int(await self._run("return redis.call('XLEN', KEYS[1])"))

    async def is_durable(self) -> bool:
        """Whether this Redis says that it keeps what it acknowledges; True if it does not let us ask."""
        from coredis.exceptions import ResponseError

        try:
            told = await self._client.config_get(["appendonly", "appendfsync"])
        except ResponseError:
            return True
        return {_text(key): _text(value) for key, value in told.items()} == {
            "appendonly": "yes",
            "appendfsync": "always",
        }

    async def _range(self, command: str, first: str, last: str, limit: int) -> list[Letter]:
        script = f"return redis.call('{command}', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])"
        return [decode(fields[5], Letter) for _, fields in await self._run(script, first, last, limit)]

    async def _run(self, script: str, *values: str | int | bytes) -> Any:
        from coredis.exceptions import RedisError

        why = f"it did not answer within {ANSWER_S:g} s"
        with trio.move_on_after(2 * ANSWER_S):
            try:
                return await self._client.eval(script, self._keys, list(values))
            except (RedisError, OSError) as error:
                why = " ".join(str(error).split())[:200].rstrip(".")
        detail = f"The dead letters at {self.shown} are away: {why}."
        raise TetherError(LEDGER_UNAVAILABLE, detail, retry_after_s=RETRY_AFTER_S)


@asynccontextmanager
async def open_redis(url: str, name: str) -> AsyncIterator[RedisLetters]:
    """A Redis that may be away now. name: of the region, whose letters are apart from others' in the same Redis.

    Raises TetherError(CONFIG_INVALID) without the extra, or for a URL that is none.
    """
    try:
        import coredis
        from coredis.retry import NoRetryPolicy
    except ImportError as error:
        raise TetherError(
            CONFIG_INVALID, "dlq: Redis needs an extra: pip install 'tether[redis]'.", field="dlq"
        ) from error
    shown = redacted(url)
    client: coredis.Redis[bytes]
    try:
        client = coredis.Redis.from_url(
            url,
            stream_timeout=ANSWER_S,
            connect_timeout=ANSWER_S,
            max_connections=CONNECTIONS,
            retry_policy=NoRetryPolicy(),
        )
    except ValueError:
        raise TetherError(CONFIG_INVALID, f"dlq: {shown} is no URL of a Redis.", field="dlq") from None
    async with client:
        yield RedisLetters(client, name, shown)


def redacted(url: str) -> str:
    """Where it is, and nothing that opens it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
