"""The command line's errors: one sentence that says what to do, the right exit code, never a traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.local_swarm import LocalSwarm
from p2p.identity import NodeKey
from p2p.membership import Issuer, Ticket, appoint, swarm_id_of, write_ticket


def run(*arguments: str, program: str = "tetherd") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"cli.{program}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def refused(arguments: Sequence[str], status: int, said: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == status, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1


def join(folder: Path, *arguments: str, listen: str = "/ip4/127.0.0.1/tcp/0") -> list[str]:
    fixed = ["join", "--data-dir", str(folder), "--http", "127.0.0.1:0", "--listen", listen]
    return [*fixed, *(() if "--region" in arguments else ("--region", "eu")), *arguments]


def ticket(ttl_s: float, now: float, address: str = "/ip4/127.0.0.1/tcp/1") -> str:
    authority, founder, secret = NodeKey.generate(), NodeKey.generate(), bytes(range(32))
    certificate = appoint(authority, founder.node_id, serial=b"s" * 16, now=now)
    issuer = Issuer(founder, swarm_id_of(authority), certificate)
    invite = issuer.invite(("gateway", "worker"), (), secret=secret, ttl_s=ttl_s, uses=1, now=now)
    return write_ticket(Ticket(issuer.swarm_id, (f"{address}/p2p/{founder.node_id}",), invite, secret))


def test_no_region_is_a_usage_error(tmp_path: Path) -> None:
    refused(["join", "--data-dir", str(tmp_path)], 2, "region")


def test_a_garbage_ticket_is_refused_without_being_repeated(tmp_path: Path) -> None:
    ended = run(*join(tmp_path, "--ticket", "tether1garbage-secret"))
    assert ended.returncode == 1
    assert "The ticket is cut or altered." in ended.stderr
    assert "garbage-secret" not in ended.stderr


def test_an_expired_ticket_is_refused(tmp_path: Path) -> None:
    import time

    refused(join(tmp_path, "--ticket", ticket(60.0, time.time() - 3600)), 1, "The ticket has expired.")


def test_a_ticket_whose_issuer_is_gone_names_the_address(tmp_path: Path) -> None:
    import time

    refused(join(tmp_path, "--ticket", ticket(60.0, time.time())), 1, "/ip4/127.0.0.1/tcp/1")


def test_a_ticket_of_another_swarm_is_refused_on_a_data_directory_that_has_one(swarm: LocalSwarm) -> None:
    import time

    node = swarm.start("node", roles="gateway,orchestrator").wait_ready()
    node.terminate()
    assert node.wait() == 0
    refused(join(node.data_dir, "--ticket", ticket(60.0, time.time())), 1, "another --data-dir")


def test_a_listen_address_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        refused(join(tmp_path, "--roles", "gateway,orchestrator", listen=address), 1, address)


def test_an_http_address_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["join", "--region", "eu", "--data-dir", str(tmp_path), "--http", bind]
        refused([*arguments, "--listen", "/ip4/127.0.0.1/tcp/0", "--roles", "gateway,orchestrator"], 1, bind)


def test_a_data_directory_in_use_names_the_process(swarm: LocalSwarm) -> None:
    node = swarm.start("node", roles="gateway,orchestrator").wait_ready()
    refused(join(node.data_dir), 1, f"process {node.pid}")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\x80\x04\x95pickle", b"not a model at all" * 100])
def test_a_model_that_is_no_gguf_is_named(tmp_path: Path, content: bytes) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(content)
    refused(join(tmp_path / "data", "--model", str(model)), 1, "broken.gguf")


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(join(tmp_path / "data", "--model", str(tmp_path / "none.gguf")), 1, "none.gguf")


def test_a_new_swarm_without_an_orchestrator_names_invite(tmp_path: Path) -> None:
    refused(join(tmp_path, "--roles", "worker"), 2, "tetherctl invite")


def test_tetherctl_without_a_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    ended = run("--data-dir", str(tmp_path), "status", program="tetherctl")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "tetherd join --region" in ended.stderr


def test_help_is_printed_without_importing_libp2p_or_the_shim() -> None:
    code = "import sys, runpy; sys.argv = ['tetherctl', '--help']\n"
    code += "try:\n runpy.run_module('cli.tetherctl', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print('LOADED', sorted({'libp2p', 'starlette', 'trio', 'llama_cpp'} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "LOADED []" in ended.stdout
