"""OpenAPI 3.1 from the declared operations and their pydantic models, and Swagger UI.

What must stay true: the document contains only what the running code declares (`operations.py`).
"""

import inspect
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

import orjson
from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from . import problems
from .fields import MAX_ID
from .operations import Access, Operation, declared

DOCUMENT: web.AppKey[dict[str, Any]] = web.AppKey("DOCUMENT")
SWAGGER = Path(__file__).parent / "swagger"
_ASSETS = ("swagger-ui-bundle.js", "swagger-ui-standalone-preset.js", "swagger-ui.css", "start.js", "favicon-32x32.png")
# Swagger UI uses one style attribute; its hash is allowed.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; "
    "style-src 'self' 'unsafe-hashes' 'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_IN: Literal["validation"] = "validation"
_OUT: Literal["serialization"] = "serialization"
_REF = "#/components/schemas/{model}"
_JSON = "application/json"
_HIDDEN = "/admin/"
"""The admin API is not part of the public document."""
_SECURITY = [{"accessToken": list[str]()}]
_ACCESS_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "The token that POST /auth/login returns.",
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457. Every type is explained at its own path.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {
            "type": "string",
            "enum": [problems.PATH + problem.name for problem in problems.ALL],
            "description": "The type of the problem. Programs may rely on it.",
        },
        "title": {"type": "string", "description": "The name of the status."},
        "status": {"type": "integer", "description": "The status of the answer.", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What is wrong with this request, for people."},
        "advice": {"type": "string", "description": "What the client can do, if the outcome is unknown."},
    },
}
_DETAILS = {
    "invalid": "invalid id",
    "unauthenticated": "the token has expired",
    "forbidden": "this is for administrators",
    "not-found": "not found",
    "unavailable": "db error",
}
"""Details for the examples. An example of another type has the type's meaning instead."""
_RETRY_AFTER = {
    "description": "After so many seconds, the same request may succeed.",
    "schema": {"type": "integer", "minimum": 1},
    "example": 1,
}
_WWW_AUTHENTICATE = {"description": "The scheme of the token that is missing.", "schema": {"const": "Bearer"}}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A request with the same key and body is done once; the repetition has `Idempotent-Replayed: true`.",
    "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
}


def document(app: web.Application, name: str, description: str) -> dict[str, Any]:
    """The OpenAPI document of an application. It is deterministic, so that a committed copy can be compared with it."""
    found = list(_operations(app))
    models = {model for _, _, op in found for model in (op.body, op.query) if model}
    answers = {model for _, _, op in found for model in op.answers.values() if model}
    inputs = [(model, _IN) for model in sorted(models, key=lambda m: m.__name__)]
    outputs = [(model, _OUT) for model in sorted(answers, key=lambda m: m.__name__)]
    refs, definitions = models_json_schema([*inputs, *outputs], ref_template=_REF)
    schemas = definitions.get("$defs", {}) | {"Problem": _PROBLEM}
    queries = {model: schemas.pop(model.__name__) for model in {op.query for _, _, op in found if op.query}}
    paths: dict[str, Any] = {}
    for path, method, op in found:
        paths.setdefault(path, {})[method] = _described(name, path, method, op, refs, queries)
    refused = sorted({status for path, _, op in found for status in _problems(path, op)})
    return {
        "openapi": "3.1.0",
        "info": {"title": f"QuickBite {name}", "version": "1", "description": description},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": description}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"accessToken": _ACCESS_TOKEN},
            "schemas": dict(sorted(schemas.items())),
            "responses": {problems.BY_STATUS[status].name: _problem(status) for status in refused},
        },
    }


def serve(app: web.Application, name: str, description: str) -> None:
    """Serve the document at `/openapi.json` and Swagger UI at `/docs`. Call it after all routes are added."""
    app[DOCUMENT] = document(app, name, description)
    text = orjson.dumps(app[DOCUMENT])
    index = (SWAGGER / "index.html").read_text()

    async def openapi(_: web.Request) -> web.Response:
        return web.Response(body=text, content_type=_JSON)

    async def documents(_: web.Request) -> web.Response:
        return web.json_response([{"name": name, "url": "/openapi.json"}])

    async def docs(_: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": CONTENT_POLICY, "X-Content-Type-Options": "nosniff"}
        return web.Response(text=index, content_type="text/html", headers=headers)

    async def asset(request: web.Request) -> web.FileResponse:
        return web.FileResponse(SWAGGER / request.match_info["file"])

    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/docs", docs)
    app.router.add_get("/docs/documents.json", documents)
    app.router.add_get("/docs/{file:" + "|".join(map(re.escape, _ASSETS)) + "}", asset)


def _operations(app: web.Application) -> Iterator[tuple[str, str, Operation]]:
    for route in app.router.routes():
        found = declared(route.handler)
        if not found or not route.resource or route.method == "HEAD":
            continue
        path = route.resource.canonical
        if not path.startswith(_HIDDEN) and found.access is not Access.SERVICES:
            yield path, route.method.lower(), found


def _described(name: str, path: str, method: str, op: Operation, refs: Any, queries: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "operationId": f"{method}{re.sub('[^A-Za-z0-9]+', '_', path)}".rstrip("_"),
        "summary": op.summary,
        "description": f"For {op.access.value}.",
        "tags": [name],
        "security": [] if op.access is Access.PUBLIC else _SECURITY,
        "parameters": [*_path_parameters(path, op), *_query_parameters(queries.get(op.query, {}))],
        "responses": _answers(op, refs) | {str(status): _refused(status) for status in _problems(path, op)},
    }
    if op.idempotent:
        shown["parameters"].append(_IDEMPOTENCY_KEY)
    if op.body:
        content = {_JSON: {"schema": refs[op.body, _IN]}}
        shown["requestBody"] = {"description": _text(op.body), "required": True, "content": content}
    return shown


def _path_parameters(path: str, op: Operation) -> Iterator[dict[str, Any]]:
    """The parameters in braces. A name that ends in `id` is an id; any other is a text.

    `/orders/{id}` is described as the id of the order, `/payments/{order_id}` as the order id.
    """
    for collection, name in re.findall(r"(\w+)/{(\w+)}", path):
        schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[^\u0000/]+$"}
        if name.endswith("id"):
            schema = {"type": "integer", "format": "int64", "minimum": 1, "maximum": MAX_ID}
        text = f"The id of the {collection.removesuffix('s')}." if name == "id" else f"The {name.replace('_', ' ')}."
        example = op.examples.get(name, 1)
        yield {"name": name, "in": "path", "description": text, "required": True, "schema": schema, "example": example}


def _query_parameters(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, described in schema.get("properties", {}).items():
        found = {key: value for key, value in described.items() if key != "title"}
        variants = [
            one for one in found.pop("anyOf", []) if one != {"type": "null"}
        ]  # a query has no null: the parameter is absent
        found |= variants[0] if variants else {}
        if found.get("default", 0) is None:
            del found["default"]
        yield {"name": name, "in": "query", "description": found.pop("description", ""), "schema": found}


def _answers(op: Operation, refs: Any) -> dict[str, Any]:
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in op.headers.items()}
    found: dict[str, Any] = {}
    for status, model in op.answers.items():
        answer: dict[str, Any] = {"description": _text(model) if model else "Done. The answer has no body."}
        if model:
            answer["content"] = {_JSON: {"schema": refs[model, _OUT]}}
        if headers:
            answer["headers"] = headers
        found[str(status)] = answer
    return found


def _problems(path: str, op: Operation) -> list[int]:
    """The error statuses: those of any request, those that follow from the declaration, and those that it lists."""
    found = {400, 429, 503, *op.problems}
    if op.access is not Access.PUBLIC:
        found.add(401)
    if op.access is Access.ADMIN:
        found.add(403)
    if op.body:
        found |= {408, 413, 415}
    if "{" in path:
        found.add(404)
    if op.idempotent:
        found |= {409, 422}
    return sorted(found)


def _refused(status: int) -> dict[str, str]:
    return {"$ref": f"#/components/responses/{problems.BY_STATUS[status].name}"}


def _problem(status: int) -> dict[str, Any]:
    """The answer of a status that is refused, with an example of each of its problem types."""
    found = [problem for problem in problems.ALL if problem.status == status]
    examples = {problem.name: {"value": problem.body(_DETAILS.get(problem.name, problem.means))} for problem in found}
    schema = {"$ref": _REF.format(model="Problem")}
    answer: dict[str, Any] = {
        "description": " ".join(f"`{problem.name}`: {problem.means}" for problem in found),
        "content": {problems.CONTENT_TYPE: {"schema": schema, "examples": examples}},
    }
    if any(problem.retry for problem in found):
        answer["headers"] = {"Retry-After": _RETRY_AFTER}
    if status == HTTPStatus.UNAUTHORIZED:
        answer["headers"] = {"WWW-Authenticate": _WWW_AUTHENTICATE}
    return answer


def _text(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "")
