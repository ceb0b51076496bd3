"""One page of a run, `report.html`: its pictures, its numbers, and what these rest on, as in the terminal.

Refuses to have numbers of its own. The pictures stand beside it, under `plots/`; without them the page is
still whole. The same run gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from sim.metrics import Summary
from sim.report.tables import summary_table

_WIDTH = 120
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ margin: 2em auto; max-width: 72em; font-family: sans-serif; color: #222; background: #fff }}
pre {{ font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; overflow-x: auto }}
img {{ width: 100% }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{what}</p>
{pictures}
<pre>{numbers}</pre>
</body>
</html>
"""


def write_page(folder: Path, summary: Summary, pictures: Sequence[Path]) -> Path:
    """Write `report.html` into the folder of a run that has these pictures; returns the file."""
    path = folder / "report.html"
    names = [picture.relative_to(folder).as_posix() for picture in pictures]
    path.write_text(run_page(summary, names), encoding="utf-8")
    return path


def run_page(summary: Summary, pictures: Sequence[str]) -> str:
    """The page; `pictures` are addresses of images, relative to it."""
    identity = summary.identity
    numbers = as_html(summary_table("", summary))
    served = f"{summary.values['completed']:,} requests completed"
    return _PAGE.format(
        title=escape(identity.experiment),
        what=escape(f"Model {identity.model_id}, seed {identity.seed}: {served}."),
        pictures="\n".join(
            f'<img src="{escape(name)}" alt="{escape(Path(name).stem)}">' for name in pictures
        ),
        numbers=numbers,
    )


def as_html(what: RenderableType, width: int = _WIDTH) -> str:
    """What the terminal would show at that many columns, for a <pre>."""
    console = Console(width=width, file=io.StringIO(), record=True, color_system="truecolor")
    console.print(what)
    return console.export_html(theme=DEFAULT_TERMINAL_THEME, code_format="{code}", inline_styles=True)
