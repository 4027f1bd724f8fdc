"""The shim's own TLS, for clients on other machines."""

from __future__ import annotations

import ssl
from pathlib import Path

from p2p.errors import CONFIG_INVALID, TetherError


def read_tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """None without a certificate. Raises TetherError(CONFIG_INVALID)."""
    if cert is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        detail = f"The certificate {cert} and the key {key} cannot be used: {type(error).__name__}."
        raise TetherError(CONFIG_INVALID, detail, field="http.tls_cert") from error
    return context
