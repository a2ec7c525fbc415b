"""What the command line shows: tables and a moving status line on a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

_STYLES = {"delete": "red", "stop": "red", "keep": "green"}


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Lay rows out as a table.

    :param rows: all of the same length, one at least. The last column is not padded.
    :return: lines, without an end of the last one.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows]
    return "\n".join(lines)


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows, the first of which is the head: with lines and colours on a terminal, plain otherwise.

    :param rows: as many cells in each.
    """
    if not sys.stdout.isatty():
        print(columns(rows))  # noqa: T201
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*rows[0], box=SIMPLE_HEAD, header_style="bold")
    for row in rows[1:]:
        table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    Console().print(table)


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Show on a terminal what is going on and for how long, until the block ends; nothing otherwise.

    Lines that are printed meanwhile stand above it.

    :param text: what is going on, in a few words.
    """
    if not sys.stdout.isatty():
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns_shown = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns_shown, transient=True) as progress:
        progress.add_task(text, total=None)
        yield
