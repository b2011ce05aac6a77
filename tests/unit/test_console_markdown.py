"""Runbooks as HTML."""

from pathlib import Path

import pytest

from console.pages import alerts
from console.pages.markdown import inline, rendered

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("Run `make up` **now**.", "Run <code>make up</code> <strong>now</strong>."),
        ("See [Parked events](#parked-events).", 'See <a href="/console/runbooks/parked-events">Parked events</a>.'),
        ("`a < b` & <script>", "<code>a &lt; b</code> &amp; &lt;script&gt;"),
        ("[x](javascript:alert(1)) and `**no**`", "[x](javascript:alert(1)) and <code>**no**</code>"),
        ('[a"b](#c) **d', '<a href="/console/runbooks/c">a&#34;b</a> **d'),
    ],
)
def test_a_line_has_code_bold_text_and_links_and_everything_else_as_it_is(text: str, html: str) -> None:
    assert inline(text) == html


def test_a_document_has_paragraphs_lists_headings_tables_and_code() -> None:
    document = """\
**Means.** One
line.
**Do.** Another:

- first
  item
2. second

#### More
| a | b |
|---|---|

```sh
echo '**no** <b>'
```
"""
    assert rendered(document).splitlines() == [
        "<p><strong>Means.</strong> One line.</p>",
        "<p><strong>Do.</strong> Another:</p>",
        "<ul><li>first item</li><li>second</li></ul>",
        "<h2>More</h2>",
        '<pre tabindex="0">| a | b |',
        "|---|---|</pre>",
        '<pre tabindex="0">echo &#39;**no** &lt;b&gt;&#39;</pre>',
    ]


def test_code_without_an_end_is_shown_to_the_end() -> None:
    assert rendered("```\n<b>") == '<pre tabindex="0">&lt;b&gt;</pre>'


def test_no_runbook_of_an_alert_shows_its_markup() -> None:
    document = OPERATIONS.read_text()
    headings = [line.removeprefix("### ") for line in document.splitlines() if line.startswith("### Alert: ")]
    assert len(headings) > 10
    for heading in headings:
        _, body = alerts.section(document, alerts.anchor_of(heading))
        html = str(rendered(body))
        assert html.count("<strong>") >= 3
        assert "**" not in html
        assert "](#" not in html
