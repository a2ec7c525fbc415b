"""The code in the documentation: where it stands, and how it is tried. ``python -m tests.support.snippets``: a table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "helm/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "terraform").glob("*/*/README.md")),
)
_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n\n?)?^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
#: What is done with the code of a language.
WAYS = {
    "python": "executed in a DAG",
    "bash": "syntax, targets, subcommands and paths",
    "sh": "syntax, targets, subcommands and paths",
    "console": "its commands: as those of bash",
    "yaml": "parsed",
    "json": "parsed",
    "hcl": "parsed",
}


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of code in a document.

    :param document: its path, from the root.
    :param line: where the code begins.
    :param language: as the fence says it.
    :param code: the text.
    :param reason: why it is not tried, as the comment before it says.
    """

    document: str
    line: int
    language: str
    code: str
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def way(self) -> str:
        return f"not run: {self.reason}" if self.reason else WAYS.get(self.language, "")


def snippets(*documents: str) -> list[Snippet]:
    """All snippets of these documents, unless given of all."""
    found = []
    for document in documents or DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start("code")) + 1
            code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            found.append(Snippet(document, line, match["language"], code, (match["reason"] or "").strip()))
    return found


if __name__ == "__main__":
    for one in snippets():
        print(f"{one.name:46} {one.language or '(none)':8} {one.way or 'NOTHING IS KNOWN OF IT'}")
