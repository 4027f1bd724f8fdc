"""TCP: listening where one was told to, and dialling several addresses for one connection."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from p2p.errors import ADDRESS_IN_USE, FIELD_INVALID, UNREACHABLE, TetherError
from p2p.host.addresses import TcpAddress, parse
from p2p.identity import PeerId

HEAD_START_S: Final = 0.15
"""How long an address is tried before the next one is too (RFC 8305 suggests 0.1 to 2 s)."""


@dataclass(frozen=True, slots=True)
class Listening:
    listener: trio.SocketListener
    address: TcpAddress


async def listen(texts: Sequence[str]) -> list[Listening]:
    """Bind every address, or none. Raises TetherError(ADDRESS_IN_USE | FIELD_INVALID) naming the one at fault.

    No SO_REUSEPORT, which libp2p's listener sets: with it a second daemon would share the port without a word.
    """
    bound: list[Listening] = []
    try:
        for text in texts:
            wanted = parse(text)
            for listener in await _bind(wanted):
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


class Dial:
    """The addresses of one peer, tried one after the other, each with a head start over the next."""

    def __init__(self, peer: PeerId, addresses: Sequence[str]) -> None:
        self._peer = peer
        self._addresses = addresses
        self._failures: list[OSError] = []

    @asynccontextmanager
    async def arrivals(self) -> AsyncIterator[trio.MemoryReceiveChannel[tuple[str, trio.SocketStream]]]:
        """Sockets as they connect. Leaving the context stops the rest and closes those nobody took."""
        send, receive = trio.open_memory_channel[tuple[str, trio.SocketStream]](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._try_all, send)
            with receive:
                yield receive
            nursery.cancel_scope.cancel()

    async def _try_all(self, arrived: trio.MemorySendChannel[tuple[str, trio.SocketStream]]) -> None:
        async with arrived, trio.open_nursery() as nursery:
            for address in self._addresses:
                failed = trio.Event()
                nursery.start_soon(self._try, address, arrived, failed)
                with trio.move_on_after(HEAD_START_S):
                    await failed.wait()

    async def _try(
        self,
        address: str,
        arrived: trio.MemorySendChannel[tuple[str, trio.SocketStream]],
        failed: trio.Event,
    ) -> None:
        target = parse(address)
        try:
            stream = await trio.open_tcp_stream(target.host, target.port)
        except OSError as error:
            self._failures.append(error)
            failed.set()
            return
        try:
            await arrived.send((address, stream))
        except (trio.Cancelled, trio.BrokenResourceError) as error:
            stream.socket.close()
            if isinstance(error, trio.Cancelled):
                raise

    def verdict(self, handshake: TetherError | None) -> TetherError:
        """Why there is no connection. handshake: what went wrong behind a socket that did connect."""
        if handshake is not None:
            return handshake
        if not self._addresses:
            return TetherError(UNREACHABLE, f"No address of {self._peer} is known.")
        if len(self._failures) == len(self._addresses) and all(map(_refused, self._failures)):
            return TetherError(UNREACHABLE, f"The connection to {self._peer} was refused.")
        if len(self._failures) < len(self._addresses):
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
