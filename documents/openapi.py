"""The documents of the HTTP APIs: OpenAPI per service, and the problem types."""

from importlib import import_module

import orjson

from shared.web import openapi, problems

SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")


def files() -> dict[str, str]:
    """Every document, by its path under `docs/`."""
    return {f"openapi/{name}.json": _openapi(name) for name in SERVICES} | {"problems.md": _problems()}


def _openapi(name: str) -> str:
    settings = {"auth": {"admin_password": "a placeholder"}}.get(name, {})
    app = import_module(f"{name}.app").create_app(import_module(f"{name}.config").Settings(**settings))
    return orjson.dumps(app[openapi.DOCUMENT], option=orjson.OPT_INDENT_2).decode() + "\n"


def _problems() -> str:
    rows = [f"| `{p.name}` | {p.status} | {p.means} | {p.advice} |" for p in problems.ALL]
    return "\n".join(
        [
            "# Problem types",
            "",
            "Every error is `application/problem+json` (RFC 9457). Its `type` is `/problems/<name>`, which can be read",
            "at the gateway and at every service; `detail` is a sentence for people. Written by `make docs` from",
            "`shared/web/problems.py`.",
            "",
            "| type | status | means | what to do |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )
