"""The shim with a certificate of its own."""

from __future__ import annotations

import datetime
import ssl
from functools import partial
from pathlib import Path

import httpx2
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from p2p.errors import CONFIG_INVALID, TetherError
from tests.tetherd.http.scripted import ScriptedInference
from tetherd.http.app import HttpSettings, build_app
from tetherd.http.serve import serve
from tetherd.http.tls import read_tls


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed one for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    shown, kept = folder / "cert.pem", folder / "key.pem"
    shown.write_bytes(cert.public_bytes(Encoding.PEM))
    kept.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return shown, kept


async def test_a_client_that_checks_the_certificate_is_served_and_one_that_speaks_plain_is_not(
    tmp_path: Path,
) -> None:
    shown, kept = certificate(tmp_path)
    app = build_app(ScriptedInference(), HttpSettings(65_536), lambda: b"")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        tls = read_tls(shown, kept)
        url: str = await nursery.start(partial(serve, app, "127.0.0.1", 0, tls, stop=stop.wait))
        assert url.startswith("https://")
        port = url.rpartition(":")[2]
        context = ssl.create_default_context(cafile=str(shown))
        async with httpx2.AsyncClient(verify=context, trust_env=False) as client:
            assert (await client.get(f"https://localhost:{port}/healthz")).text == "ok\n"
            with pytest.raises(httpx2.HTTPError):
                await client.get(f"http://localhost:{port}/healthz")
        stop.set()


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert read_tls(None, None) is None
    shown, kept = certificate(tmp_path)
    shown.write_text("nothing")
    with pytest.raises(TetherError, match=r"cert\.pem") as caught:
        read_tls(shown, kept)
    assert caught.value.code is CONFIG_INVALID
