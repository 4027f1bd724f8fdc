"""TCP: listening where one was told to, and dialling several addresses for one connection."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from p2p.errors import ADDRESS_IN_USE, FIELD_INVALID, UNREACHABLE, TetherError
from p2p.host.addresses import TcpAddress, parse
from p2p.host.raw import Pipe
from p2p.identity import PeerId

HEAD_START_S: Final = 0.15
"""How long an address is tried before the next one is too (RFC 8305 suggests 0.1 to 2 s)."""
_REUSEPORT: Final = getattr(socket, "SO_REUSEPORT", None)


@dataclass(frozen=True, slots=True)
class Listening:
    listener: trio.SocketListener
    address: TcpAddress


def everywhere(port: int) -> tuple[str, ...]:
    """All addresses of this machine, in both families as far as it has them."""
    families = ("/ip4/0.0.0.0", "/ip6/::") if _has_ipv6() else ("/ip4/0.0.0.0",)
    return tuple(f"{family}/tcp/{port}" for family in families)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


async def listen(texts: Sequence[str]) -> list[Listening]:
    """Bind every address, or none. Raises TetherError(ADDRESS_IN_USE | FIELD_INVALID) naming the one at fault.

    SO_REUSEPORT is set once it is bound: this process dials from the port, and a second daemon, which binds without it,
    does not share the port without a word.
    """
    bound: list[Listening] = []
    try:
        for text in texts:
            wanted = parse(text)
            for listener in await _bind(wanted):
                share_port(listener.socket)
                host, port = listener.socket.getsockname()[:2]
                bound.append(Listening(listener, TcpAddress(f"ip{6 if ':' in host else 4}", host, port)))
    except BaseException:
        for one in bound:
            one.listener.socket.close()
        raise
    return bound


async def _bind(wanted: TcpAddress) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(wanted.port, host=wanted.host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise TetherError(ADDRESS_IN_USE, f"{wanted} is in use.", field="listen") from error
        raise TetherError(
            FIELD_INVALID, f"Cannot listen on {wanted}: {error.strerror}.", field="listen"
        ) from error


def share_port(one: trio.socket.SocketType) -> None:
    """Let this process's other sockets have the same port."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if _REUSEPORT is not None:
        one.setsockopt(socket.SOL_SOCKET, _REUSEPORT, 1)


async def connect_from(source: TcpAddress | None, target: TcpAddress) -> trio.SocketStream:
    """Connect, from the very port that this node listens on if it is given. Both have IP addresses. Raises OSError."""
    family = socket.AF_INET6 if target.family == "ip6" else socket.AF_INET
    one = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        if source is not None:
            share_port(one)
            await one.bind((source.host, source.port))
        await one.connect((target.host, target.port))
    except BaseException:
        one.close()
        raise
    return trio.SocketStream(one)


LAST_ACK_S: Final = 0.5
"""An earlier connection between the same ports needs a round trip more to be over, once both sides have closed it."""
_TAKEN: Final = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EINVAL)

Connect = Callable[[str], Awaitable[Pipe]]
"""Make the pipe to an address. Raises OSError."""
Arrival = tuple[str, Pipe]


async def connect_tcp(target: TcpAddress, source: TcpAddress | None = None) -> trio.SocketStream:
    """source: from where to, if that is free for this target. Raises OSError."""
    patience_s = trio.current_time() + LAST_ACK_S
    while source is not None:
        try:
            return await connect_from(source, target)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if trio.current_time() > patience_s:
            break
        await trio.sleep(LAST_ACK_S / 10)
    if target.ip is None:
        return await trio.open_tcp_stream(target.host, target.port)
    return await connect_from(None, target)


class Dial:
    """The addresses of one peer, tried one after the other, each with a head start over the next."""

    def __init__(self, peer: PeerId, addresses: Sequence[str], connect: Connect) -> None:
        self.addresses = list(addresses)
        self._peer = peer
        self._connect = connect
        self._failures: list[OSError] = []
        self._begun = 0
        self._trying = 0
        self._working = False
        self._arrived: trio.MemorySendChannel[Arrival] | None = None
        self._tasks: trio.Nursery | None = None

    @asynccontextmanager
    async def arrivals(self) -> AsyncIterator[trio.MemoryReceiveChannel[Arrival]]:
        """Pipes as they connect. Leaving the context stops the rest and closes those nobody took."""
        self._arrived, receive = trio.open_memory_channel[Arrival](0)
        async with trio.open_nursery() as self._tasks:
            self._work_on()
            with receive:
                yield receive
            self._tasks.cancel_scope.cancel()

    def also(self, addresses: Sequence[str]) -> None:
        """Try these, too: they were learned while earlier ones keep silent."""
        self.addresses += [address for address in addresses if address not in self.addresses]
        if self._trying and not self._working:
            self._work_on()

    def has_tried(self, addresses: Sequence[str]) -> bool:
        return set(addresses) <= set(self.addresses[: self._begun])

    def _work_on(self) -> None:
        """Try the next address at once, and those behind it in their turns."""
        assert self._tasks is not None
        if self._begun == len(self.addresses):
            self._working = False
            self._end_if_over()
            return
        address, failed = self.addresses[self._begun], trio.Event()
        self._working = True
        self._begun += 1
        self._trying += 1
        self._tasks.start_soon(self._try, address, failed)
        self._tasks.start_soon(self._give_head_start, failed)

    async def _give_head_start(self, failed: trio.Event) -> None:
        with trio.move_on_after(HEAD_START_S):
            await failed.wait()
        self._work_on()

    async def _try(self, address: str, failed: trio.Event) -> None:
        assert self._arrived is not None
        try:
            stream = await self._connect(address)
            try:
                await self._arrived.send((address, stream))
            except (trio.Cancelled, trio.BrokenResourceError) as error:
                await trio.aclose_forcefully(stream)
                if isinstance(error, trio.Cancelled):
                    raise
        except OSError as error:
            self._failures.append(error)
            failed.set()
        finally:
            self._trying -= 1
            self._end_if_over()

    def _end_if_over(self) -> None:
        if not self._trying and not self._working:
            assert self._arrived is not None
            self._arrived.close()

    def verdict(self, handshake: TetherError | None) -> TetherError:
        """Why there is no connection. handshake: what went wrong behind a socket that did connect."""
        if handshake is not None:
            return handshake
        if not self.addresses:
            return TetherError(UNREACHABLE, f"No address of {self._peer} is known.")
        if len(self._failures) == len(self.addresses) and all(map(_refused, self._failures)):
            return TetherError(UNREACHABLE, f"The connection to {self._peer} was refused.")
        if len(self._failures) < len(self.addresses):
            return TetherError(UNREACHABLE, f"No way to {self._peer}: the dial timed out.")
        return TetherError(UNREACHABLE, f"No way to {self._peer}: {_reason(self._failures[-1])}.")


def _refused(error: OSError) -> bool:
    return all(isinstance(one, ConnectionRefusedError) for one in _causes(error))


def _reason(error: OSError) -> str:
    return _causes(error)[-1].strerror or "the network refuses the address"


def _causes(error: OSError) -> list[OSError]:
    """trio raises one OSError around those of a name's addresses."""
    if isinstance(error.__cause__, BaseExceptionGroup):
        return [one for one in error.__cause__.exceptions if isinstance(one, OSError)]
    return [error.__cause__ if isinstance(error.__cause__, OSError) else error]
