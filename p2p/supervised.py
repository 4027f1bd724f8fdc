"""The one supervisor of handlers: whatever they raise ends a call or a connection, never the daemon."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Iterator, Mapping
from typing import Final, TypeVar

import structlog

from p2p.errors import INTERNAL, TetherError

_Result = TypeVar("_Result")
_log: Final = structlog.get_logger()


async def supervised(work: Awaitable[_Result], event: str, **fields: str) -> _Result:
    """What the work comes to. Raises its fault as TetherError; a bug of ours is logged, and raised as INTERNAL.

    event, fields: what is logged of a bug, besides where and as what it crashed.
    """
    try:
        return await work
    except TetherError:
        raise
    except Exception as error:  # noqa: BLE001 the one supervisor of foreign code: a call ends, not the daemon
        raise (_only_fault(error) or _crashed(error, event, fields)) from None


def _only_fault(error: Exception) -> TetherError | None:
    """The fault in a group of nothing but faults, as a nursery in a handler raises it."""
    leaves = list(_leaves(error))
    faults = [leaf for leaf in leaves if isinstance(leaf, TetherError)]
    return faults[0] if len(faults) == len(leaves) else None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _crashed(error: Exception, event: str, fields: Mapping[str, str]) -> TetherError:
    """Log where and as what a handler crashed; never its message, which may quote what it worked on."""
    bug = next(leaf for leaf in _leaves(error) if not isinstance(leaf, TetherError))
    place = traceback.extract_tb(bug.__traceback__)[-1]
    where = f"{place.filename.rpartition('/')[2]}:{place.lineno} in {place.name}"
    _log.error(event, **fields, bug=type(bug).__name__, where=where)
    return TetherError(INTERNAL, "The handler failed.")
