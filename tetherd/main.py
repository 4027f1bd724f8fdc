"""One daemon's process: its logs, its lock, its traces, and the one sentence that it ends with when it fails."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from inference.containment import forbid_core_dumps
from p2p.errors import TetherError
from p2p.garbage import collect_rarely
from tetherd.config import Config
from tetherd.daemon import Daemon
from tetherd.data_dir import DataDir
from tetherd.phases import Phases
from tetherd.telemetry import logs
from tetherd.telemetry.tracing import tracing


def run(config: Config, phases: Phases) -> int:
    """Run a node until it is told to stop; returns the exit code. Raises the TetherError that ended it."""
    logs.configure(config.telemetry.log_format, config.telemetry.log_level)
    forbid_core_dumps()
    collect_rarely()
    try:
        return trio.run(_run, config, phases)
    except BaseExceptionGroup as group:
        faults, rest = group.split(TetherError)
        if rest is not None or faults is None:
            raise
        raise next(_leaves(faults)) from None


async def _run(config: Config, phases: Phases) -> int:
    data = DataDir(config.data_dir)
    with data.lock():
        key = data.key()
        phases.reached("identity", key.node_id)
        with tracing(config.telemetry.otlp_endpoint, key.node_id, config.region):
            return await Daemon(config, phases, data, key).run()


def _leaves(group: BaseExceptionGroup[TetherError]) -> Iterator[TetherError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
