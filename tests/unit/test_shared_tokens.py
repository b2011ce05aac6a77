"""What a caller may see, and which texts have the form of a token."""

import time
from typing import Any

import jwt
import pytest
from jwt.algorithms import OKPAlgorithm

from shared.errors import Unauthenticated
from shared.web import tokens, verification
from shared.web.tokens import Caller
from shared.web.verification import Verifier
from tests.tokens import Mint


def test_a_signed_token_is_read_with_its_user_roles_and_session() -> None:
    mint = Mint()
    token = mint.token("7", "cook", "admin")
    assert tokens.key_id(token) == mint.kid
    caller = tokens.read(token, tokens.public_key(mint.published()["keys"][0]))
    assert (caller.user_id, caller.roles, caller.session_id) == ("7", {"cook", "admin"}, "a session")
    assert time.time() < caller.expires_at <= time.time() + 3600


def test_tokens_are_signed_as_ed25519_and_those_of_former_releases_stay_valid() -> None:
    mint = Mint()
    claims = {"iss": tokens.ISSUER, "aud": tokens.AUDIENCE, "sub": "7", "roles": [], "sid": "s"}
    claims |= {"iat": int(time.time()), "exp": int(time.time()) + 60}
    assert jwt.get_unverified_header(tokens.sign(mint.key, "test", claims))["alg"] == "Ed25519"
    former = jwt.encode(claims, mint.key, algorithm="EdDSA", headers={"kid": "test", "typ": tokens.TYPE})
    assert tokens.key_id(former) == "test"
    assert tokens.read(former, mint.key.public_key()).user_id == "7"


def test_a_private_key_is_not_taken_for_a_public_one() -> None:
    jwk = OKPAlgorithm.to_jwk(Mint().key, as_dict=True)
    with pytest.raises(jwt.InvalidKeyError):
        tokens.public_key(jwk)


def test_a_token_has_only_one_valid_spelling() -> None:
    token = Mint().token()
    for other in (
        token + "=",
        token + "==",
        token + "\n",
        " " + token,
        token[:-1],
        token + "A",
        token.replace(".", ".="),
    ):
        with pytest.raises(Unauthenticated, match="cannot be read"):
            tokens.key_id(other)


@pytest.mark.parametrize(
    ("caller", "user_id", "may"),
    [
        (Caller("7"), "7", True),
        (Caller("7"), "8", False),
        (Caller("7"), None, False),
        (Caller("7"), "", False),
        (Caller("7", frozenset({"cook"})), "8", False),
        (Caller("7", frozenset({"Admin", "administrator"})), "8", False),
        (Caller("1", frozenset({"admin"})), "8", True),
        (Caller("1", frozenset({"admin"})), None, True),
        (tokens.TRUSTED, "8", True),
    ],
)
def test_a_user_may_see_own_data_and_an_administrator_everything(
    caller: Caller, user_id: str | None, may: bool
) -> None:
    assert caller.may_see(user_id) is may


async def test_a_verified_token_is_refused_after_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier remembers tokens. It must not remember them for longer than they are valid."""
    mint = Mint()

    async def fetch() -> dict[str, Any]:
        return mint.published()

    verifier = Verifier(fetch)
    await verifier.refresh()
    token = mint.token("7")
    caller = await verifier.verify(token)
    assert caller.user_id == "7"
    monkeypatch.setattr(verification.time, "time", lambda: caller.expires_at + tokens.LEEWAY_SECONDS - 1)
    assert (await verifier.verify(token)).user_id == "7"
    monkeypatch.setattr(verification.time, "time", lambda: caller.expires_at + tokens.LEEWAY_SECONDS)
    with pytest.raises(Unauthenticated, match="expired"):
        await verifier.verify(token)
