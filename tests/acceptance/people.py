"""People who register, log in and shop like real users, with tokens from auth."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import jwt

from tests.acceptance.client import Call, Client
from tests.builders import eventually

PASSWORD = "correct horse battery"
ADMIN_PASSWORD = "staple of the administrator"


class Person:
    """A user with a login; `client` records all requests."""

    def __init__(self, client: Client, username: str, password: str = PASSWORD) -> None:
        self._client, self.username, self._password = client, username, password
        self.id = self.token = self.refresh_token = ""

    @property
    def caller(self) -> str | None:
        """The caller in the history: None for the administrator, who may see everything."""
        return None if self.username == "admin" else self.id

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def log_in(self) -> Call:
        login = {"username": self.username, "password": self._password}
        return self._keep_tokens(await patiently(lambda: self._client.send("POST", "/auth/login", {}, login)))

    async def refresh(self) -> Call:
        sent = {"refresh_token": self.refresh_token}
        return self._keep_tokens(await self._client.send("POST", "/auth/refresh", {}, sent))

    async def log_out(self) -> Call:
        return await self._client.send("POST", "/auth/logout", {}, {"refresh_token": self.refresh_token})

    async def send(self, method: str, path: str, json: Any = None) -> Call:
        return await self._client.send(method, path, self.headers, json, caller=self.caller)

    async def order(self, product_id: int, sku: str, quantity: int = 1, key: str = "") -> Call:
        """Order a product by its id; `sku` must be the same product."""
        meant = {"userId": self.id, "sku": sku, "quantity": quantity}
        about = {"kind": "place", "caller": self.caller, "body": meant, "key": key or uuid4().hex}
        chosen = {"product_id": product_id, "quantity": quantity}
        return await self._client.send("POST", "/orders/", self.headers, chosen, **about)

    async def outcome(self, order_id: int) -> dict[str, Any]:
        """Wait until an order is final; return the order as this person sees it."""
        call = await self._client.send("GET", f"/orders/{order_id}?wait=20", self.headers, caller=self.caller, wait=20)
        assert call.status == 200, call
        return call.answer

    def _keep_tokens(self, call: Call) -> Call:
        if call.status == 200:
            self.token, self.refresh_token = call.answer["token"], call.answer["refresh_token"]
            self.id = jwt.decode(self.token, options={"verify_signature": False})["sub"]
        return call


async def patiently(send: Callable[[], Awaitable[Call]]) -> Call:
    """Send again, after a pause, as long as too many logins wait for a turn."""
    call = await send()
    for _ in range(20):
        if not call.is_login_limit:
            break
        await asyncio.sleep(float(call.retry_after or 1))
        call = await send()
    return call


async def registered(client: Client, username: str = "") -> Person:
    """A new user, who has registered and logged in."""
    username = username or f"u{uuid4().hex[:20]}"
    body = {"username": username, "password": PASSWORD}
    made = await patiently(lambda: client.send("POST", "/auth/register", {}, body))
    assert made.status == 201, made
    person = Person(client, username)
    assert (await person.log_in()).status == 200
    assert person.id == str(made.answer["id"])
    return person


async def new_user(client: Client) -> Person:
    """A new user, who has logged in and has a profile."""
    made = await registered(client)

    async def has_profile() -> bool:
        return (await made.send("GET", "/users/me")).status == 200

    await eventually(has_profile)
    return made


async def administrator(client: Client) -> Person:
    """The administrator, logged in."""
    person = Person(client, "admin", ADMIN_PASSWORD)
    assert (await person.log_in()).status == 200
    return person
