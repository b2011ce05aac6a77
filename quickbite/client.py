"""Calls of the admin API, each within a bounded time. A service that does not answer is reported, not waited for."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import typer
from pydantic import ValidationError

from quickbite import text
from quickbite.config import SERVICES, Settings
from shared.process import configuration

SECONDS = 5.0


class Failed(Exception):
    """A call failed. The text says which, why, and what to do."""


class Client:
    """Calls services as an administrator."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._settings, self._session, self._token = settings, session, settings.quickbite_token

    async def get(self, service: str, path: str, **query: object) -> Any:
        """GET /admin/<path>. Raises `Failed`."""
        wanted = {name: str(value) for name, value in query.items() if value is not None}
        return await self._call("GET", service, f"/admin/{path}", params=wanted)

    async def each(self, services: Sequence[str], path: str, **query: object) -> AsyncIterator[tuple[str, Any]]:
        """GET /admin/<path> of each service. One that fails is reported on stderr. Raises `Failed` if all fail."""
        answered = False
        for service in services:
            try:
                found = await self.get(service, path, **query)
            except Failed as error:
                typer.echo(text.line(error), err=True)
            else:
                answered = True
                yield service, found
        if not answered:
            raise Failed("no service has answered")

    async def post(self, service: str, path: str, body: dict[str, Any]) -> Any:
        """POST /admin/<path>. Raises `Failed`."""
        wanted = {name: value for name, value in body.items() if value is not None}
        return await self._call("POST", service, f"/admin/{path}", json=wanted)

    async def _call(self, method: str, service: str, path: str, **content: Any) -> Any:
        if not self._token:
            await self._log_in()
        return await self._send(method, service, path, headers={"Authorization": f"Bearer {self._token}"}, **content)

    async def _log_in(self) -> None:
        login = {"username": "admin", "password": self._settings.admin_password}
        self._token = (await self._send("POST", "auth", "/auth/login", json=login))["token"]

    async def _send(self, method: str, service: str, path: str, **content: Any) -> Any:
        if service not in SERVICES:
            raise Failed(f"there is no service {service!r:.40}, only {', '.join(SERVICES)}")
        address = self._settings.address(service)
        try:
            async with self._session.request(method, address + path, **content) as answer:
                body = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise Failed(f"{service} does not answer at {address}: {reason:.200}. Does it run? (make ps)") from error
        except ValueError as error:
            raise Failed(f"{service} at {address} answered something that is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise Failed(f"{service} at {address} answered something that is no JSON object")
        if answer.status < 400:
            return body
        hint = ". Set ADMIN_PASSWORD or QUICKBITE_TOKEN" if answer.status in {401, 403} else ""
        raise Failed(f"{service} answered {answer.status}: {body.get('detail', body)}{hint}")


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    """Yield a client with the settings of the environment. Raises `Failed`."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        yield Client(read_settings(), session)


def read_settings() -> Settings:
    """The settings of the environment. Raises `Failed`."""
    try:
        return Settings()
    except ValidationError as error:
        raise Failed(configuration.complaint(error)) from None
