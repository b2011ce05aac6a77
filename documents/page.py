"""A page about the events for people, from the AsyncAPI document and the JSON Schemas.

AsyncAPI's own component is not used: it has 3 MB of scripts, which make code from text, and the gateway's
Content-Security-Policy forbids that.
"""

import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from contracts.catalogue import EVENTS, TOPICS
from documents import events
from documents.events import Json

PATH = "events/index.html"
_TEMPLATES = Environment(
    loader=PackageLoader("documents"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def files() -> dict[str, str]:
    """The page, by its path under `docs/`."""
    document = events.asyncapi()
    schemas = [events.schema(event) for event in EVENTS]
    page = _TEMPLATES.get_template("events.html").render(
        info=document["info"],
        headers=document["components"]["schemas"]["CloudEvent"],
        topics={topic: document["channels"][topic] for topic in TOPICS},
        dead_letter=document["components"]["messages"][events.LETTER],
        events={topic: [schema for schema in schemas if schema["x-kafka-topic"] == topic] for topic in TOPICS},
        kind=kind,
        text=text,
    )
    return {PATH: page}


def kind(schema: Json) -> str:
    """The values that a field can have, in words."""
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " or ".join(values)
    return f"{schema['type']}, {schema['format']}" if "format" in schema else str(schema["type"])


def text(written: str) -> Markup:
    """The HTML of a description: what is between backticks is code."""
    # str: Python 3.11 lets the type of its last argument join the parts, and Markup escapes them again.
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(written))))  # noqa: S704  # it is escaped
