"""No log has a token, a password or a key, also if clients make mistakes.

The logs of all other tests are searched too, when their stack stops (`conftest.py`).
"""

import asyncio
from uuid import uuid4

from tests.acceptance.client import Client
from tests.acceptance.conftest import System
from tests.acceptance.people import PASSWORD, Person, administrator, registered
from tests.builders import eventually


async def make_mistakes(client: Client, person: Person) -> None:
    """Send what people send by mistake: secrets in wrong places, and requests that fail."""
    token, refresh = person.token, person.refresh_token
    for path in ("/auth/login", "/auth/register"):
        await client.send("POST", path, {}, {"username": person.username, "password": PASSWORD[:-1]})
        await client.send("POST", path, {}, {"username": {"password": PASSWORD}, "password": [PASSWORD]})
        await client.send("POST", path, {}, {"username": "x" * 500, "passwort": PASSWORD, "password": PASSWORD})
        await client.send("POST", f"{path}?password={PASSWORD.replace(' ', '+')}&token={token}", {}, {})
    await client.send("GET", f"/orders/?token={token}", {"Referer": f"http://shop/?token={token}"})
    await client.send("GET", f"/nowhere?token={token}", {"Cookie": f"token={token}"})
    await client.send("GET", "/users/me", {"Authorization": f"Bearer  {token}x"})
    await client.send("GET", "/users/me", {"Authorization": token})
    await client.send("PATCH", f"/users/{person.id}", person.headers, {"display_name": {"token": token}, "x": PASSWORD})
    await person.refresh()
    await client.send("POST", "/auth/refresh", {}, {"refresh_token": refresh})  # used twice: the session ends
    await client.send("POST", "/auth/logout", {}, {"refresh_token": {"refresh_token": refresh}})


async def everything_is_logged(client: Client, system: System) -> None:
    """Wait for the gateway, which writes its log once a second."""
    last = f"/last-{uuid4().hex}"
    await client.send("GET", last, {})
    log = system.stack.supervisor.log("gateway")

    async def is_logged() -> bool:
        return last in log.read_text()

    await eventually(is_logged)


async def test_no_log_has_a_secret_after_requests_that_fail(system: System) -> None:
    async with system.customers(system.gateway_url) as client:
        await administrator(client)
        person = await registered(client)
        await make_mistakes(client, person)
        async with system.frozen("postgres"):  # errors of the database, with what was sent to it
            login = {"username": person.username, "password": PASSWORD}
            await client.send("POST", "/auth/login", {}, login)
        await system.crash("auth")
        await everything_is_logged(client, system)
        assert await asyncio.to_thread(system.leaked) == []
    await system.settled()
