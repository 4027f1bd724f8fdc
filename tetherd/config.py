"""One frozen configuration: TOML, then TETHER_* variables, then flags; checked once, before anything starts.

The tables below are the whole of it: each setting with its default and why it has it. In the environment a setting
is TETHER_ and its path with double underscores (TETHER_HTTP__BIND); lists are separated by commas.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from platformdirs import user_data_path

from p2p.errors import CONFIG_INVALID, TetherError
from p2p.messages import ROLES, Role

ENV_PREFIX: Final = "TETHER_"
PORT: Final = 7576
"""For other nodes: a fixed one, so that tickets outlive a restart."""
_WILDCARDS: Final = ("0.0.0.0", "::")
Settings = dict[str, Any]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of settings. An unknown key is an error."""


class HttpConfig(Section, frozen=True):
    """The REST shim."""

    bind: str = "127.0.0.1:7575"
    """host:port; port 0 picks one and writes it to <data-dir>/http.addr."""
    max_body_bytes: int = 4 * 1024 * 1024
    """A long conversation is under 1 MiB; more is a mistake or an attack."""
    allowed_hosts: tuple[str, ...] = ()
    """Names besides loopback and the bound address that a Host header may carry."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages that may call the shim from a browser."""
    tls_cert: Path | None = None
    """PEM, with the chain. With it the shim may be bound to other addresses than loopback, if it asks for keys."""
    tls_key: Path | None = None
    behind_proxy: bool = False
    """TLS ends at a proxy in front, which alone can reach the address that is bound."""


class OidcConfig(Section, frozen=True):
    """Whose tokens stand for an API key, on gateways and orchestrators alike."""

    issuer: str = ""
    """As it stands in the tokens: https://login.example.com/realm; empty: tokens are not looked at."""
    audience: str = ""
    """What the tokens have to be for, so that those for other services are worth nothing here."""
    tenant_claim: str = "tenant"
    scopes_claim: str = ""
    """Where infer or model:NAME stand, such as scope; empty: a token may do everything."""


class WorkerConfig(Section, frozen=True):
    """What this machine lends."""

    models: tuple[str, ...] = ()
    """References as --model takes them; none: the built-in tether-demo."""
    max_tokens_per_second: float | None = None
    """Lend only a share of the machine: all answers of this worker together."""
    slots: int | None = None
    """Requests at a time; none: from the memory there is."""
    threads: int | None = None
    """Threads of the engine; none: from the cores and the model's size."""
    exact: Literal["auto", "on", "off"] = "auto"
    """Answers that the same seed repeats to the bit (docs/exactness.md). auto: where a model shows at load that it can;
    on: a model that cannot is not served; off: always the faster way."""
    engine: Literal["auto", "llama", "torch"] = "auto"
    """What computes. auto: llama.cpp for a GGUF, torch for a folder of safetensors; torch serves some GGUFs, too."""
    memory_gb: float | None = None
    """Of all engines that run at a time: weights, slots and their contexts. None: half of what is free beside the
    weights of the largest."""
    gpu_layers: int | None = None
    """Layers of each model that a GPU computes; none: as many as its memory holds, where there is one."""
    server_key_env: str = ""
    """Name of the environment variable that has the key of the servers that --model openai:… names."""


class ModelsConfig(Section, frozen=True):
    """The cache of model files, and what it takes of the network."""

    cache_gb: float | None = None
    """All of them together; beyond, those used longest ago go. None: what the disk has, but for half a GB."""
    lend_mb_s: float | None = None
    """What all who fetch from this node get together; none: no limit. Tokens go first in any case."""
    fetch_mb_s: float | None = None


class QuotasConfig(Section, frozen=True):
    """What every tenant may use where its own limits say nothing (an orchestrator's); none: as much as it likes."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None
    """Needs PostgreSQL, as do budget and prices."""
    concurrency: int | None = None
    budget: str = ""
    """Money a calendar month, such as 12.50."""
    prices: tuple[str, ...] = ()
    """MODEL=PROMPT/OUTPUT, money for a million tokens, such as tether-demo=0.15/0.60."""


class UsageConfig(Section, frozen=True):
    """Where usage goes as it is billed (an orchestrator's; needs PostgreSQL)."""

    webhook: str = ""
    """https://…: each usage row is posted there, signed as Standard Webhooks are."""
    webhook_secret: str = ""
    """whsec_ and 24 to 64 bytes in base64; better in its variable, or in webhook_secret_file."""
    webhook_secret_file: Path | None = None
    webhook_days: float = 7.0
    """How long an event is tried before it is given up."""


class TelemetryConfig(Section, frozen=True):
    """Logs and traces. Metrics are always at /metrics."""

    otlp_endpoint: str = ""
    """OTLP over HTTP, e.g. http://127.0.0.1:4318; empty: no traces leave. OTEL_EXPORTER_OTLP_ENDPOINT serves too."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["", "debug", "info", "warning", "error"] = ""
    """Empty: info, but warning on a terminal, where the phases tell the story."""


class Config(Section, frozen=True):
    """A daemon's configuration."""

    region: str
    ticket: str = ""
    roles: tuple[Role, ...] = ()
    """Empty: all that the certificate grants."""
    listen: tuple[str, ...] = ()
    """Multiaddrs for other nodes; none: port 7576 of all IPv4 addresses, and of all IPv6 ones where there is IPv6."""
    upnp: Literal["auto", "off"] = "auto"
    """Ask the home router to let the port in; auto: where this machine listens on a LAN and has no public address."""
    mdns: bool = True
    """Find members in this LAN, and be found by them; nothing happens where only loopback is listened on."""
    relay: Literal["auto", "off"] = "auto"
    """Pass on what members say to each other who cannot be dialled; auto: while this node can be."""
    relay_rate: float = 4_000_000.0
    """Bytes a second for that, all members together and both directions."""
    data_dir: Path = Path()
    store: str = "sqlite"
    """The ledger: sqlite (in the data directory), postgresql://… (the region's own), or memory (forgets at the end)."""
    store_replica: str = ""
    """A streaming replica of that PostgreSQL, which lists and reports are read from while it answers."""
    dlq: str = ""
    """Dead letters: redis://… (a stream; the ledger's own table while it is away); empty: in that table."""
    idle_connections: int | None = None
    """Beyond so many, those to peers that were used longest ago are let go; none: 128, of an orchestrator 2048."""
    require_keys: bool = False
    """Refuse requests without an API key also while there are no tenants, as after a lost disk."""
    drain_s: float = 30.0
    """How long SIGTERM waits for running answers."""
    http: HttpConfig = HttpConfig()
    oidc: OidcConfig = OidcConfig()
    worker: WorkerConfig = WorkerConfig()
    models: ModelsConfig = ModelsConfig()
    quotas: QuotasConfig = QuotasConfig()
    usage: UsageConfig = UsageConfig()
    telemetry: TelemetryConfig = TelemetryConfig()


def default_data_dir() -> Path:
    return user_data_path("tether")


def load(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None) -> Config:
    """Merge and check. flags: dotted names, None for those not given. Raises TetherError(CONFIG_INVALID)."""
    merged: Settings = _read_toml(file) if file else {}
    _merge(merged, _from_environ(environ))
    for name, value in flags.items():
        if value is not None:
            _put(merged, name.split("."), value)
    _check_keys(merged, Config, "")
    if not merged.get("region"):
        raise _wrong("region", "it is missing; name the region that this node is in, such as --region eu")
    merged.setdefault("data_dir", str(default_data_dir()))
    try:
        config = msgspec.convert(merged, Config, strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error
    return _checked(config)


def parse_bind(bind: str) -> tuple[str, int]:
    """Split host:port or [v6]:port. Raises TetherError(CONFIG_INVALID)."""
    match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\]:(\d{1,5})|([^:\[\]]+):(\d{1,5})", bind)
    port = int(match[2] or match[4]) if match else 65_536
    if match is None or port > 65_535:
        raise TetherError(
            CONFIG_INVALID, f"http.bind is {bind!r}; it has to be host:port.", field="http.bind"
        )
    return match[1] or match[3], port


def is_postgres_url(store: str) -> bool:
    return store.startswith(("postgresql://", "postgres://"))


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def bound_names(host: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """By which names clients may call a shim that is bound to host; a wildcard is none."""
    return allowed if host in _WILDCARDS else (host, *allowed)


def _checked(config: Config) -> Config:
    _check_http(config)
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", config.region):
        raise _wrong(
            "region", f"{config.region!r} has to be lower-case letters, digits and dashes, at most 32"
        )
    if config.store not in ("sqlite", "memory") and not is_postgres_url(config.store):
        kind = config.store.split(":")[0]
        raise _wrong("store", f"{kind!r} is not built in; it has to be sqlite, postgresql://… or memory")
    if config.store_replica and not (is_postgres_url(config.store_replica) and is_postgres_url(config.store)):
        raise _wrong("store_replica", "it has to be postgresql://…, a replica of the one that store names")
    if config.dlq and not config.dlq.startswith(("redis://", "rediss://")):
        raise _wrong("dlq", "it has to be redis://… or rediss://…; without it letters are in the ledger")
    hook = config.usage
    if hook.webhook and not hook.webhook.startswith(("https://", "http://127.0.0.1", "http://localhost")):
        raise _wrong("usage.webhook", "it has to be an https:// address")
    if hook.webhook and bool(hook.webhook_secret) == (hook.webhook_secret_file is not None):
        raise _wrong("usage.webhook_secret", "give it, or webhook_secret_file, by which events are signed")
    if not 0 < hook.webhook_days <= 30:
        raise _wrong("usage.webhook_days", "it has to be greater than 0 and at most 30")
    rate = config.worker.max_tokens_per_second
    if rate is not None and not 0 < rate < 1e9:
        raise _wrong("worker.max_tokens_per_second", "it has to be greater than 0")
    for name, count in (("slots", config.worker.slots), ("threads", config.worker.threads)):
        if count is not None and not 1 <= count <= 1024:
            raise _wrong(f"worker.{name}", "it has to be between 1 and 1024")
    if (layers := config.worker.gpu_layers) is not None and not 0 <= layers <= 1000:
        raise _wrong("worker.gpu_layers", "it has to be between 0 and 1000")
    if (memory := config.worker.memory_gb) is not None and not 0 < memory < 1e6:
        raise _wrong("worker.memory_gb", "it has to be greater than 0")
    limits = config.models
    for name in ("cache_gb", "lend_mb_s", "fetch_mb_s"):
        if (limit := getattr(limits, name)) is not None and not 0 < limit < 1e9:
            raise _wrong(f"models.{name}", "it has to be greater than 0")
    if config.idle_connections is not None and config.idle_connections < 1:
        raise _wrong("idle_connections", "it has to be at least 1")
    if not 10_000 <= config.relay_rate <= 1e12:
        raise _wrong("relay_rate", "it has to be at least 10000 bytes a second; relay = off relays nothing")
    if not 1024 <= config.http.max_body_bytes <= 1 << 30:
        raise _wrong("http.max_body_bytes", "it has to be between 1 KiB and 1 GiB")
    return config


def _check_http(config: Config) -> None:
    """Others than this machine are served by TLS, and by key or token."""
    http, oidc = config.http, config.oidc
    if oidc.issuer and not oidc.issuer.startswith(("https://", "http://127.0.0.1", "http://localhost")):
        raise _wrong("oidc.issuer", "it has to be an https:// address, as it stands in the tokens")
    if bool(oidc.issuer) != bool(oidc.audience):
        raise _wrong("oidc.audience", "issuer and audience belong together: give both")
    if (http.tls_cert is None) != (http.tls_key is None):
        raise _wrong("http.tls_key", "certificate and key belong together: give both")
    host, _ = parse_bind(http.bind)
    if is_loopback(host):
        return
    if not (config.require_keys or oidc.issuer):
        detail = (
            f"{host} is not loopback, and nobody would be asked for a key: set require_keys or oidc.issuer"
        )
        raise _wrong("http.bind", f"{detail}, or bind 127.0.0.1")
    if http.tls_cert is None and not http.behind_proxy:
        detail = f"{host} is not loopback, and keys would travel in clear: give --tls-cert and --tls-key"
        raise _wrong("http.bind", f"{detail}, or --behind-proxy where TLS ends in front of it")
    if host in _WILDCARDS and not http.allowed_hosts:
        raise _wrong("http.allowed_hosts", f"{host} has no name: say by which names clients call this node")


def _read_toml(file: Path) -> Settings:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise TetherError(CONFIG_INVALID, f"Cannot read {file}: {error.strerror}.", field="config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TetherError(CONFIG_INVALID, f"{file} is not TOML: {error}.", field="config") from error


def _from_environ(environ: Mapping[str, str]) -> Settings:
    settings: Settings = {}
    if endpoint := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        _put(settings, ["telemetry", "otlp_endpoint"], endpoint)
    for name, value in environ.items():
        if name.startswith(ENV_PREFIX):
            path = [part.lower() for part in name[len(ENV_PREFIX) :].split("__")]
            _put(settings, path, value.split(",") if _is_list(path) else value)
    return settings


def _is_list(path: list[str]) -> bool:
    kind: Any = Config
    for part in path:
        kind = get_type_hints(kind).get(part) if isinstance(kind, type) else None
    return get_origin(kind) is tuple


def _put(settings: Settings, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise _wrong(".".join(path), "it is inside a setting that is no table")
    settings[path[-1]] = value


def _merge(into: Settings, other: Settings) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _check_keys(settings: Settings, kind: type[Section], prefix: str) -> None:
    known = get_type_hints(kind)
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(known)}"
            raise _wrong(prefix + key, f"there is no such setting; {hint}")
        inner = known[key]
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Section):
            _check_keys(value, inner, f"{prefix}{key}.")


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    raise TypeError(f"expected {kind.__name__}")


def _invalid(error: msgspec.ValidationError) -> TetherError:
    what, _, where = str(error).partition(" - at ")
    field = where.strip("`").removeprefix("$.") or "configuration"
    if field.startswith("roles"):
        what = f"roles are {', '.join(get_args(Role) or ROLES)}"
    return _wrong(field, what[:1].lower() + what[1:])


def _wrong(field: str, why: str) -> TetherError:
    return TetherError(CONFIG_INVALID, f"{field}: {why}.", field=field)
