"""Keys over real daemons: made with the admin socket, sent by the openai client, checked by the orchestrator."""

from __future__ import annotations

import pytest
from openai import AuthenticationError, PermissionDeniedError

from cli.control import Control
from cli.local_swarm import LocalSwarm
from p2p.errors import FORBIDDEN, UNAUTHENTICATED, USAGE, TetherError
from tests.e2e.asking import MODEL, a_swarm, ask, client_of


def test_from_the_first_tenant_on_a_client_needs_a_key_that_it_may_use(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm)
    without = ask(founder)
    founder.control.post("/tenants", {"tenant": "acme"})
    with pytest.raises(AuthenticationError):
        ask(founder)
    made = founder.control.post("/keys", {"tenant": "acme"})
    acme = client_of(founder).with_options(api_key=made["key"])

    def answer() -> str | None:
        completion = acme.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello!"}], temperature=0, max_tokens=4
        )
        return completion.choices[0].message.content

    assert without
    assert answer()
    [job] = founder.control.get("/jobs?limit=1")
    assert job["tenant"] == "acme"
    founder.control.post("/tenants/acme/disable")
    with pytest.raises(PermissionDeniedError):
        answer()
    founder.control.post("/tenants/acme/enable")
    founder.control.post(f"/keys/{made['keyId']}/revoke")
    with pytest.raises(AuthenticationError):
        answer()
    assert made["key"][-43:] not in founder.log.read_text("utf-8")


def test_an_operator_asks_from_another_machine_as_far_as_the_role_goes(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm)
    founder.control.post("/tenants", {"tenant": "ops"})
    made = founder.control.post("/keys", {"tenant": "ops", "scopes": ["viewer"]})
    remote = Control(founder.data_dir, founder.control.shim(), made["key"])
    assert remote.get("/status")["nodeId"] == founder.control.get("/status")["nodeId"]
    assert [tenant["tenant"] for tenant in remote.get("/tenants")] == ["ops"]
    with pytest.raises(TetherError) as refused:
        remote.post("/invite", {})
    assert refused.value.code is FORBIDDEN
    with pytest.raises(TetherError) as unknown:
        Control(founder.data_dir, founder.control.shim(), made["key"][:-1] + "-").get("/status")
    assert unknown.value.code is UNAUTHENTICATED
    with pytest.raises(TetherError) as in_clear:
        Control(founder.data_dir, "http://tether.example", made["key"]).get("/status")
    assert in_clear.value.code is USAGE
