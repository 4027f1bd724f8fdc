"""The configuration: three sources, one order, and errors that name the setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2p.errors import CONFIG_INVALID, TetherError
from tetherd.config import bound_names, load, parse_bind


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tether.toml"
    file.write_text(
        'region = "file"\nstore = "memory"\n[http]\nbind = "127.0.0.1:1"\nmax_body_bytes = 2048\n'
    )
    environ = {"TETHER_REGION": "env", "TETHER_HTTP__BIND": "127.0.0.1:2", "HOME": "/nowhere"}
    config = load({"region": None, "http.bind": "127.0.0.1:3"}, environ, file)
    assert (config.region, config.http.bind, config.http.max_body_bytes, config.store) == (
        "env",
        "127.0.0.1:3",
        2048,
        "memory",
    )


def test_lists_in_the_environment_are_separated_by_commas() -> None:
    config = load(
        {"region": "eu"}, {"TETHER_ROLES": "gateway,worker", "TETHER_WORKER__MODELS": "a.gguf,b.gguf"}, None
    )
    assert config.roles == ("gateway", "worker")
    assert config.worker.models == ("a.gguf", "b.gguf")


@pytest.mark.parametrize(
    ("flags", "environ", "field", "said"),
    [
        ({}, {}, "region", "missing"),
        ({"region": "EU West"}, {}, "region", "lower-case"),
        ({"region": "eu", "roles": ["boss"]}, {}, "roles", "gateway, orchestrator, worker"),
        ({"region": "eu", "http.bind": "7575"}, {}, "http.bind", "host:port"),
        ({"region": "eu", "http.bind": "127.0.0.1:99999"}, {}, "http.bind", "host:port"),
        ({"region": "eu", "http.bind": "0.0.0.0:7575"}, {}, "http.bind", "require_keys"),
        ({"region": "eu", "http.bind": "10.0.0.1:1", "require_keys": True}, {}, "http.bind", "--tls-cert"),
        (
            {"region": "eu", "http.bind": "[::]:1", "require_keys": True, "http.behind_proxy": True},
            {},
            "http.allowed_hosts",
            "by which names",
        ),
        ({"region": "eu", "http.tls_cert": "a.pem"}, {}, "http.tls_key", "both"),
        ({"region": "eu", "oidc.issuer": "https://a.example"}, {}, "oidc.audience", "both"),
        ({"region": "eu", "oidc.issuer": "http://a.example"}, {}, "oidc.issuer", "https://"),
        ({"region": "eu", "store": "mysql://user:secret@host/db"}, {}, "store", "postgresql://… or memory"),
        (
            {"region": "eu", "worker.max_tokens_per_second": 0.0},
            {},
            "worker.max_tokens_per_second",
            "greater than 0",
        ),
        ({"region": "eu"}, {"TETHER_WORKER__SLOTS": "0"}, "worker.slots", "between 1 and 1024"),
        ({"region": "eu"}, {"TETHER_HTTP__BIMD": "x"}, "http.bimd", "did you mean http.bind?"),
        ({"region": "eu"}, {"TETHER_REGIO": "x"}, "regio", "did you mean region?"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_has_to_be(
    flags: dict[str, Any], environ: dict[str, str], field: str, said: str
) -> None:
    with pytest.raises(TetherError) as caught:
        load(flags, environ, None)
    assert caught.value.code is CONFIG_INVALID
    assert (caught.value.field or "").startswith(field)
    assert said in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "flags",
    [
        {"http.tls_cert": "a.pem", "http.tls_key": "b.pem", "require_keys": True},
        {"http.behind_proxy": True, "oidc.issuer": "https://a.example", "oidc.audience": "tether"},
    ],
)
def test_a_lan_is_served_with_keys_or_tokens_and_tls(flags: dict[str, Any]) -> None:
    config = load({"region": "eu", "http.bind": "10.0.0.1:7575", **flags}, {}, None)
    assert config.http.bind == "10.0.0.1:7575"
    assert bound_names("10.0.0.1", ("a.lan",)) == ("10.0.0.1", "a.lan")
    assert bound_names("0.0.0.0", ("a.lan",)) == ("a.lan",)


@pytest.mark.parametrize("text", ["region = [", "\xff"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(TetherError, match=r"broken\.toml is not TOML"):
        load({}, {}, file)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"Cannot read .*none\.toml"):
        load({}, {}, tmp_path / "none.toml")


def test_a_bind_may_be_ipv6() -> None:
    assert parse_bind("[::1]:80") == ("::1", 80)


def test_several_listening_addresses_come_from_flags_a_file_or_one_variable(tmp_path: Path) -> None:
    two = ("/ip4/10.0.0.1/tcp/7576", "/ip6/::/tcp/7577")
    file = tmp_path / "tether.toml"
    file.write_text(f'region = "eu"\nlisten = ["{two[0]}", "{two[1]}"]\n')
    assert load({"region": "eu"}, {}, None).listen == ()
    assert load({}, {}, file).listen == two
    assert load({"region": "eu"}, {"TETHER_LISTEN": ",".join(two)}, None).listen == two
    assert load({"region": "eu", "listen": two[1:]}, {"TETHER_LISTEN": two[0]}, file).listen == two[1:]
