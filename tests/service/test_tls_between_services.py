"""Keys over TLS between services: only auth's own certificate is believed, and it is replaced while services run."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from local import ports
from shared import service
from shared.errors import Unavailable
from shared.process import certificates
from shared.process.tasks import Tasks
from shared.web import application, tls, verification
from shared.web.connections import Connections
from tests.builders import eventually
from tests.tokens import Mint

MINT = Mint()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certificates.make(tmp_path, ["localhost"])
    return tmp_path


@pytest.fixture
async def port(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A service that publishes keys on its port of TLS."""
    monkeypatch.setattr(tls, "_LOOK_SECONDS", 0.05)
    app = application.create()

    async def published(_: web.Request) -> web.Response:
        return web.json_response(MINT.published())

    app.router.add_get("/auth/jwks.json", published)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    chosen = ports.free_block(1)
    settings: Any = SimpleNamespace(host="127.0.0.1", https_port=chosen, https_file=folder / "localhost" / "both.pem")
    async with service._serving_tls(Tasks(), settings, Connections(runner.server, app)):
        yield chosen
    await runner.cleanup()


async def verified(port: int, ca_file: Path | None) -> str:
    url = f"https://localhost:{port}/auth/jwks.json"
    tasks = Tasks()
    async with verification.verifying(tasks, url, ca_file) as verifier:
        return (await verifier.verify(MINT.token("7"))).user_id


async def serial(port: int, ca_file: Path) -> bytes | None:
    """The certificate that a new connection gets."""
    context = ssl.create_default_context(cafile=ca_file)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    found: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found


async def test_keys_are_fetched_over_tls_from_the_right_server_only(port: int, folder: Path, tmp_path: Path) -> None:
    assert await verified(port, folder / "ca" / "ca.pem") == "7"
    certificates.make(tmp_path / "other", ["localhost"])
    for stranger in (tmp_path / "other" / "ca" / "ca.pem", None):
        with pytest.raises(Unavailable):
            await verified(port, stranger)


async def test_a_new_certificate_is_used_without_a_restart(port: int, folder: Path) -> None:
    ca, own = folder / "ca" / "ca.pem", folder / "localhost"
    first = await serial(port, ca)
    (own / "both.pem").write_text("half a file")  # a certificate that cannot be used changes nothing
    await asyncio.sleep(0.2)
    assert await serial(port, ca) == first
    (own / "certificate.pem").unlink()
    certificates.make(folder, ["localhost"])

    async def is_new() -> bool:
        return await serial(port, ca) != first

    await eventually(is_new)
    assert await verified(port, ca) == "7"


def test_the_command_makes_certificates_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            (tmp_path / "db" / "certificate.pem").unlink()
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(certificates.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        certificates.main([str(tmp_path), "db", "--every", "12"])
    assert pauses == [43_200, 43_200]
    assert (tmp_path / "db" / "certificate.pem").exists()
