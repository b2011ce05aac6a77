"""The problem types (RFC 9457): the status of each, what it means, and what the client can do.

What must stay true: clients may rely on `type`; `detail` is a sentence for people. The gateway uses the same types for
requests that it refuses itself, see `gateway/nginx.conf`.
"""

from dataclasses import dataclass
from http import HTTPStatus

import orjson
from aiohttp import web

from .. import errors

CONTENT_TYPE = "application/problem+json"
PATH = "/problems/"
_TITLES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
"""The names of RFC 9110. Python had others before 3.13."""


@dataclass(frozen=True)
class Problem:
    """A problem type. With `retry`, the same request may succeed later."""

    name: str
    status: int
    means: str
    advice: str
    retry: bool = False

    @property
    def title(self) -> str:
        return _TITLES.get(self.status, HTTPStatus(self.status).phrase)

    def body(self, detail: str) -> dict[str, str | int]:
        """The JSON of an answer with this problem."""
        found: dict[str, str | int] = {
            "type": PATH + self.name,
            "title": self.title,
            "status": self.status,
            "detail": detail,
        }
        if self.name == "outcome-unknown":
            found["advice"] = "repeat with the same Idempotency-Key"
        return found

    def text(self) -> str:
        return f"{self.name} ({self.status} {self.title})\n\n{self.means}\n\nWhat to do: {self.advice}\n"


_REPEAT = "Repeat the same request after `Retry-After` seconds."

ALL = (
    Problem("invalid", 400, "The request cannot be understood; `detail` names what is wrong.", "Correct the request."),
    Problem(
        "unauthenticated",
        401,
        "There is no access token, or it is not valid: it has expired, or this shop did not sign it.",
        "Log in at POST /auth/login, or refresh at POST /auth/refresh, and send `Authorization: Bearer <token>`.",
    ),
    Problem("forbidden", 403, "The caller is known, and is not allowed to do this.", "Ask an administrator."),
    Problem(
        "not-found",
        404,
        "The thing does not exist, or the caller may not know that it does.",
        "Check the path and the id.",
    ),
    Problem(
        "method-not-allowed",
        405,
        "The path does not support this method.",
        "`Allow` lists the methods that it supports.",
    ),
    Problem("request-timeout", 408, "The request did not arrive in time.", "Send it faster.", retry=True),
    Problem(
        "conflict", 409, "The state of the thing does not allow this, or it exists already.", "Read its current state."
    ),
    Problem("length-required", 411, "The body has no length.", "Send `Content-Length`, or chunks."),
    Problem("payload-too-large", 413, "The body is larger than 64 KiB.", "Send a smaller body."),
    Problem(
        "unsupported-media-type",
        415,
        "The body is not declared as JSON.",
        "Send the header `Content-Type: application/json`.",
    ),
    Problem("uri-too-long", 414, "The path and query are longer than 8 KiB.", "Send a shorter path or query."),
    Problem("expectation-failed", 417, "`Expect` asks for something other than 100-continue.", "Leave the header out."),
    Problem(
        "idempotency-key-reused",
        422,
        "The Idempotency-Key was used before with another body.",
        "Use a new key for a new request.",
    ),
    Problem("too-many-requests", 429, "The caller, or their address, sends too many requests.", _REPEAT, retry=True),
    Problem(
        "header-too-large",
        431,
        "A header is larger than 8 KiB, or all headers are larger than 32 KiB.",
        "Send smaller headers.",
    ),
    Problem(
        "internal", 500, "A defect of the service. The log of the service has the details.", "Report the X-Request-Id."
    ),
    Problem(
        "not-implemented",
        501,
        "The gateway does not know this Transfer-Encoding.",
        "Use `chunked`, or no Transfer-Encoding.",
    ),
    Problem("unavailable", 503, "The service, or its database, does not answer now.", _REPEAT, retry=True),
    Problem("refused", 503, "Nothing was done and nothing will be done.", _REPEAT, retry=True),
    Problem(
        "outcome-unknown",
        503,
        "No answer came in time. The request may have been done or not.",
        "Repeat it with the same Idempotency-Key. Without a key, check first whether it was done.",
        retry=True,
    ),
    Problem("http-version-not-supported", 505, "The gateway supports HTTP/1.0 and HTTP/1.1.", "Use one of them."),
)
BY_NAME = {problem.name: problem for problem in ALL}
BY_STATUS = {problem.status: problem for problem in reversed(ALL)}

# The only place that maps errors to HTTP.
_TYPES: dict[type[BaseException], str] = {
    errors.Invalid: "invalid",
    errors.NotJson: "unsupported-media-type",
    errors.Unauthenticated: "unauthenticated",
    errors.Forbidden: "forbidden",
    errors.NotFound: "not-found",
    errors.Conflict: "conflict",
    errors.KeyReused: "idempotency-key-reused",
    errors.TooMany: "too-many-requests",
    errors.OutcomeUnknown: "outcome-unknown",
    errors.Refused: "refused",
    errors.Unavailable: "unavailable",
}


def response(name: str, detail: str, retry_after: int = 1) -> web.Response:
    """Answer with a problem. If the request may be repeated, the answer has Retry-After."""
    problem = BY_NAME[name]
    headers = {}
    if problem.retry:
        headers["Retry-After"] = str(retry_after)
    if name == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(status=problem.status, body=content(name, detail), content_type=CONTENT_TYPE, headers=headers)


def content(name: str, detail: str) -> bytes:
    """The body of the answer."""
    return orjson.dumps(BY_NAME[name].body(detail))


def of_error(error: errors.ServiceError) -> web.Response:
    """The answer to an error that a service raised."""
    name = next(_TYPES[kind] for kind in type(error).__mro__ if kind in _TYPES)
    return response(name, error.detail, error.seconds if isinstance(error, errors.TooMany) else 1)


def of_http(error: web.HTTPException) -> web.Response:
    """The answer to an error that aiohttp found in a request."""
    known = BY_STATUS.get(error.status)
    answer = response(known.name if known else "invalid", error.reason)
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer


async def show(request: web.Request) -> web.Response:
    """The page that a problem's `type` points to: one type, or all of them."""
    name = request.match_info.get("name", "")
    if name and name not in BY_NAME:
        raise errors.NotFound("there is no such problem type")
    chosen = [BY_NAME[name]] if name else ALL
    return web.Response(text="\n\n".join(problem.text() for problem in chosen))
