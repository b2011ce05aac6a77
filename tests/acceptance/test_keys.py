"""The signing key is rotated while customers shop, and no request fails."""

import asyncio
import os
import random
import subprocess
from itertools import cycle

import jwt

from tests.acceptance.client import Client, steadily, unexpected
from tests.acceptance.conftest import System
from tests.acceptance.people import Person, registered
from tests.builders import eventually

LEAD_SECONDS = 12
"""The longest time until a service fetches the keys again."""


def key_of(token: str) -> str:
    """The `kid` of the key that signed the token."""
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid


async def rotate_keys(system: System) -> str:
    """Run the operator's command; return the `kid` of the new key."""
    auth = system.stack.program("auth")
    done = await asyncio.to_thread(
        subprocess.run,
        [*auth.command, "rotate-keys"],
        cwd=auth.folder,
        env={**os.environ, **auth.environment, "KEY_LEAD_SECONDS": str(LEAD_SECONDS)},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()[1]


async def test_rotating_the_signing_key_under_load_loses_no_request(system: System) -> None:
    async with system.customers(system.gateway_url) as client:
        people = [await registered(client) for _ in range(4)]
        before = [copy_of(client, person) for person in people]  # they keep their old tokens
        turns, patient, chance = cycle(people), cycle(before), random.Random(5)

        async def shop() -> None:
            person = next(patient if chance.random() < 0.3 else turns)
            placed = await person.order(2, "pizza")
            if placed.status == 202:
                await person.outcome(placed.answer["id"])
            await person.send("GET", "/inventory/pizza")

        async def renew() -> None:
            person = people[chance.randrange(len(people))]
            session = copy_of(client, person)  # a copy, so that nobody else refreshes the same session at the same time
            await session.log_in()
            person.token = session.token
            await session.refresh()
            person.token = session.token

        async with steadily(15, shop, shop, shop, shop, shop, shop, shop, renew):
            kid = await rotate_keys(system)
            assert kid not in {key_of(person.token) for person in people}

            async def is_in_use() -> bool:
                return {key_of(person.token) for person in people} == {kid}

            await eventually(is_in_use, seconds=LEAD_SECONDS + 10, pause=0.1)
            assert {key_of(person.token) for person in before} != {kid}
        for old, new in zip(before, people, strict=True):
            assert [(await person.send("GET", "/auth/validate")).status for person in (old, new)] == [204, 204]
    await system.settled()
    assert unexpected(client.history, 200, 201, 202, 204) == []
    assert sum(call.kind == "place" for call in client.history) > 100


def copy_of(client: Client, person: Person) -> Person:
    """The same person, with the tokens that they have now."""
    copy = Person(client, person.username)
    copy.id, copy.token, copy.refresh_token = person.id, person.token, person.refresh_token
    return copy
