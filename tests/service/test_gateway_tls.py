"""TLS at the gateway, with real handshakes."""

import asyncio
import datetime as dt
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from local import certificate, ports
from local.entry import Entry
from local.problem import Problem
from tests.service.gateway import TOKEN, Answer, Shop, opened, request

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


def trusting(shop: Shop) -> ssl.SSLContext:
    """A client that knows the gateway's certificate, and checks names."""
    return ssl.create_default_context(cafile=str(shop.gateway.home / certificate.CERTIFICATE))


async def send(shop: Shop, context: ssl.SSLContext, host: str = ports.LOOPBACK, name: str = "localhost") -> Answer:
    """Ask for the orders over TLS."""
    reader, writer = await asyncio.open_connection(host, shop.gateway.ports[1], ssl=context, server_hostname=name)
    writer.write(request("GET /v1/orders"))
    answer = Answer.of(await reader.read())
    writer.close()
    return answer


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_client_that_checks_the_certificate_is_served(shop: Shop, name: str) -> None:
    answer = await send(shop, trusting(shop), name=name)
    assert (answer.status, answer.get("Strict-Transport-Security")) == (200, "")


async def test_a_client_that_checks_the_certificate_notices_another_name(shop: Shop) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await send(shop, trusting(shop), name="shop.example")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_old_versions_of_tls_are_refused(shop: Shop) -> None:
    context = trusting(shop)
    context.set_ciphers("ALL:@SECLEVEL=0")  # otherwise the client refuses
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await send(shop, context)


async def test_plain_http_on_the_port_of_tls_is_a_problem(shop: Shop) -> None:
    plain = Shop(shop.gateway.ports[1], shop.server, shop.upstreams, shop.gateway)
    answer = await plain.ask("GET /v1/orders")
    assert (answer.status, answer.problem) == (400, "invalid")


async def curl(shop: Shop, *arguments: str) -> str:
    """Ask with HTTP/2, which client and gateway agree on in the handshake."""
    roots = ["--cacert", str(shop.gateway.home / certificate.CERTIFICATE)]
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--http2", *roots, *arguments]
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await child.communicate()
    assert child.returncode == 0
    return output.decode()


async def test_http_2_is_served_as_http_1(shop: Shop) -> None:
    address = f"https://localhost:{shop.gateway.ports[1]}"
    headers = ["-H", f"Authorization: {TOKEN}", "-H", "X-User-Id: 1"]
    form = ["-o", "/dev/null", "-w", "%{http_version} %{http_code} "]
    asked = [f"{address}/v1/orders", f"{address}/nowhere", f"{address}/console/"]
    found = await curl(shop, *headers, *[part for one in asked for part in (*form, one)])
    assert found.split() == ["2", "200", "2", "404", "2", "200"]
    (orders,), (console,) = shop.orders.seen, shop.upstreams["console"].seen
    assert (orders.all("X-User-Id"), orders.all("Host")) == (["7"], ["orders"])
    assert console.all("Host") == [address.removeprefix("https://")]
    assert console.all("X-Forwarded-Proto") == ["https"]


# Where it listens


async def test_others_reach_only_the_port_of_tls(tmp_path: Path) -> None:
    async with opened(tmp_path, Entry(host="0.0.0.0")) as shop:  # noqa: S104 - the setting that is tested
        assert (await send(shop, trusting(shop), host="127.0.0.9")).status == 200
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.9", shop.port)


async def test_without_a_setting_nobody_else_reaches_the_gateway(shop: Shop) -> None:
    for port in shop.gateway.ports:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.9", port)


# Certificates


async def test_an_own_certificate_is_used_and_browsers_remember_to_use_tls(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    certificate.put(own, "127.0.0.1", "", "")
    entry = Entry(certificate=str(own / certificate.CERTIFICATE), key=str(own / certificate.KEY))
    async with opened(tmp_path / "gateway", entry) as shop:
        context = ssl.create_default_context(cafile=entry.certificate)
        assert (await send(shop, context)).get("Strict-Transport-Security") == "max-age=31536000"
        assert (await shop.ask("GET /v1/orders")).get("Strict-Transport-Security") == ""


async def test_a_certificate_is_replaced_while_clients_connect(tmp_path: Path) -> None:
    async with opened(tmp_path / "gateway") as shop:
        home, port = shop.gateway.home, shop.gateway.ports[1]
        seen: list[bytes | None] = []

        async def connect() -> None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            writer.close()
            await writer.wait_closed()

        for _ in range(4):
            await connect()
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(connect())
                await asyncio.to_thread(shop.gateway.renew_certificate)
        await connect()
        assert len(seen) == 85
        assert len(set(seen)) == 5
        assert seen[-1] == made(home).public_bytes(Encoding.DER)


def made(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / certificate.CERTIFICATE).read_bytes())


async def test_a_made_certificate_is_kept_and_renewed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate.put(tmp_path, "127.0.0.1", "", "")
    first = made(tmp_path)
    assert 89 <= (first.not_valid_after_utc - dt.datetime.now(dt.UTC)).days < 91
    certificate.put(tmp_path, "127.0.0.1", "", "")
    assert made(tmp_path) == first
    certificate.put(tmp_path, "192.0.2.1", "", "")
    assert made(tmp_path) != first
    monkeypatch.setattr(certificate, "DAYS", 29)
    (tmp_path / certificate.CERTIFICATE).unlink()
    certificate.put(tmp_path, "127.0.0.1", "", "")
    ending = made(tmp_path)
    monkeypatch.undo()
    certificate.put(tmp_path, "127.0.0.1", "", "")
    assert made(tmp_path) != ending


@pytest.mark.parametrize("wrong", ["missing", "another key", "no key"])
async def test_a_certificate_that_cannot_be_used_is_one_clear_line(tmp_path: Path, wrong: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        certificate.put(tmp_path / name, "127.0.0.1", "", "")
    keys = {"missing": tmp_path / "none", "another key": tmp_path / "b" / certificate.KEY, "no key": ""}
    with pytest.raises(
        Problem, match=r"^TLS_CERTIFICATE=.* and TLS_KEY=.* cannot be used \(.*\): set both to PEM files"
    ):
        certificate.put(tmp_path, "127.0.0.1", str(tmp_path / "a" / certificate.CERTIFICATE), str(keys[wrong]))
