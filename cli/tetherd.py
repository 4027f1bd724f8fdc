"""tetherd: the daemon. `tetherd join` is all that a machine needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cli import show
from cli.phases import phases_for
from p2p.errors import TetherError
from tetherd import __version__

app = App(name="tetherd", help="Join this machine to a private AI inference network.", version=__version__)


@app.command
def join(
    *,
    region: str | None = None,
    ticket: str | None = None,
    roles: str | None = None,
    model: tuple[str, ...] = (),
    listen: tuple[str, ...] = (),
    upnp: Literal["auto", "off"] | None = None,
    mdns: bool | None = None,
    relay: Literal["auto", "off"] | None = None,
    relay_rate: float | None = None,
    http: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    behind_proxy: bool | None = None,
    require_keys: bool | None = None,
    oidc_issuer: str | None = None,
    oidc_audience: str | None = None,
    oidc_tenant_claim: str | None = None,
    oidc_scopes_claim: str | None = None,
    data_dir: str | None = None,
    store: str | None = None,
    store_replica: str | None = None,
    dlq: str | None = None,
    usage_webhook: str | None = None,
    max_tokens_per_second: float | None = None,
    rate_limit: float | None = None,
    cache_size: float | None = None,
    exact: Literal["auto", "on", "off"] | None = None,
    engine: Literal["auto", "llama", "torch"] | None = None,
    memory: float | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    log_format: Literal["text", "json"] | None = None,
    config: Annotated[Path | None, Parameter(help="A TOML file with any of the settings.")] = None,
) -> None:
    """Start this node and stay in the foreground; the first one without a ticket founds a swarm.

    Every setting can also stand in the TOML file or in a TETHER_* variable (TETHER_TICKET, TETHER_HTTP__BIND);
    flags win over variables, variables over the file.

    Parameters
    ----------
    region
        The region to join, such as eu: requests are answered by workers of their own region.
    ticket
        What `tetherctl invite` printed on a member. Better in TETHER_TICKET: flags show in process lists.
    roles
        Comma-separated: gateway, orchestrator, worker. Default: all that the certificate grants.
    model
        A model to serve: a GGUF file, or tether-demo, which is built in and the default. Repeatable.
    listen
        A multiaddr to listen on for other nodes, such as /ip6/::/tcp/7576. Repeatable; default: port 7576 everywhere.
    upnp
        auto (default) asks the home router to let the port in; off does not.
    mdns
        --no-mdns: neither look for members in this LAN nor be found by them.
    relay
        auto (default) passes on what members say who cannot be dialled, while this node can be; off does not.
    relay_rate
        Bytes a second for that, all members together. Default 4000000.
    http
        Where the OpenAI-style shim listens: host:port, port 0 picks a free one. Default 127.0.0.1:7575.
    tls_cert
        A certificate with its chain (PEM): the shim then speaks TLS, and may serve other machines.
    tls_key
        The certificate's key (PEM, without a password).
    behind_proxy
        TLS ends at a proxy in front of this node.
    require_keys
        Refuse whoever shows no API key or token, also while there are no tenants.
    oidc_issuer
        An OIDC issuer whose tokens stand for an API key, as it stands in them: https://login.example.com/realm.
    oidc_audience
        What the tokens have to be for.
    oidc_tenant_claim
        Which claim names the tenant. Default: tenant.
    oidc_scopes_claim
        Which claim holds infer or model:NAME. Default: none, a token may do everything.
    data_dir
        Where keys, ledger and models are kept. Default ~/.local/share/tether.
    store
        The ledger: sqlite (default), postgresql://… (better in TETHER_STORE, which no process list shows) or memory.
    store_replica
        A streaming replica of that PostgreSQL, for lists and reports (better in TETHER_STORE_REPLICA).
    dlq
        Dead letters: redis://… (better in TETHER_DLQ). Default: in the ledger.
    usage_webhook
        An https:// address that is sent each usage row, signed with TETHER_USAGE__WEBHOOK_SECRET. Needs PostgreSQL.
    max_tokens_per_second
        Lend only this much of the machine, over all answers together.
    rate_limit
        Megabytes a second that model files may take of the line, each way. Tokens go first in any case.
    cache_size
        Gigabytes of disk that fetched models may take together.
    exact
        auto (default): answers that a seed repeats to the bit, from models that show at load that they can; on: only
        such models are served; off: the faster way.
    engine
        auto (default): llama.cpp for a GGUF, torch for a folder of safetensors; llama or torch: only that.
    memory
        GB that all engines together may take, weights included; models beyond it are loaded in turns, when they are
        asked for. Default: half of what is free beside the largest one's weights.
    threads
        Threads of each engine. Default: from the cores and the model's size.
    gpu_layers
        Layers of each model that an NVIDIA GPU computes; 0: none. Default: as many as its memory holds.
    log_format
        text, or json: one object a line.
    """
    flags = {
        "region": region,
        "ticket": ticket,
        "roles": [role.strip() for role in roles.split(",")] if roles else None,
        "worker.models": model or None,
        "listen": listen or None,
        "upnp": upnp,
        "mdns": mdns,
        "relay": relay,
        "relay_rate": relay_rate,
        "http.bind": http,
        "http.tls_cert": tls_cert,
        "http.tls_key": tls_key,
        "http.behind_proxy": behind_proxy,
        "require_keys": require_keys,
        "oidc.issuer": oidc_issuer,
        "oidc.audience": oidc_audience,
        "oidc.tenant_claim": oidc_tenant_claim,
        "oidc.scopes_claim": oidc_scopes_claim,
        "data_dir": data_dir,
        "store": store,
        "store_replica": store_replica,
        "dlq": dlq,
        "usage.webhook": usage_webhook,
        "worker.max_tokens_per_second": max_tokens_per_second,
        "models.lend_mb_s": rate_limit,
        "models.fetch_mb_s": rate_limit,
        "models.cache_gb": cache_size,
        "worker.exact": exact,
        "worker.engine": engine,
        "worker.memory_gb": memory,
        "worker.threads": threads,
        "worker.gpu_layers": gpu_layers,
        "telemetry.log_format": log_format,
    }
    try:
        _run(flags, config)
    except TetherError as error:
        show.fail(error, json_wanted=log_format == "json")


def main() -> None:
    app()


def _run(flags: Mapping[str, object], file: Path | None) -> None:
    from tetherd.config import load

    config = load(flags, os.environ, file)
    phases = phases_for(config.telemetry.log_format)
    phases.begin(config.region)

    from tetherd.main import run

    sys.exit(run(config, phases))


if __name__ == "__main__":
    main()
