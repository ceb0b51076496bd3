"""Frames of HTML pages: one style, sections, pictures, terminal text. The same input gives the same bytes.

Refuses to know what a page is about.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ margin: 2em auto; max-width: 76em; padding: 0 1em; background: #fff; color: #222 }}
body, td {{ font-family: sans-serif }}
h1 {{ font-size: 1.5em }} h2 {{ font-size: 1.15em; margin-top: 1.8em }}
.verdict {{ padding: .7em 1em; border-left: .4em solid; background: #f6f6f6; font-weight: bold }}
pre {{ font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; overflow-x: auto }}
img {{ width: 100%; max-width: 72em }}
table.facts td {{ padding: .1em 1.2em .1em 0; vertical-align: top }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def html_page(title: str, parts: Sequence[str]) -> str:
    """A page; its parts are HTML, its title is text."""
    return _PAGE.format(title=escape(title), body="\n".join(parts))


def section(title: str, body: str) -> str:
    """A part of a page under its heading; the body is HTML."""
    return f"<h2>{escape(title)}</h2>\n{body}"


def images(addresses: Sequence[str]) -> str:
    """Pictures, one under the other; addresses are relative to the page."""
    return "\n".join(
        f'<p><img src="{escape(address)}" alt="{escape(Path(address).stem)}"></p>' for address in addresses
    )


def facts_table(facts: Mapping[str, str]) -> str:
    """Names and what is to be said of them."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in facts.items())
    return f'<table class="facts">{rows}</table>'


def terminal_text(what: RenderableType, width: int = 120) -> str:
    """What the terminal would show at that many columns."""
    console = Console(width=width, file=io.StringIO(), record=True, color_system="truecolor")
    console.print(what)
    shown = console.export_html(theme=DEFAULT_TERMINAL_THEME, code_format="{code}", inline_styles=True)
    return f"<pre>{shown}</pre>"
