"""Text that comes from a cluster and is shown by Airflow: it is read, and does nothing. Imports nothing."""

from __future__ import annotations

import re

# Colours stay; other terminal commands (cursor, window title, links) go; lone control characters become visible.
_CONTROL = re.compile(
    r"(?P<colour>\x1b\[[0-9;:]*m)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)"
    r"|(?P<lone>[\x00-\x08\x0b-\x1f\x7f-\x9f])"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
#: User and password of a URL.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)")
#: Airflow folds its log between these. Printed by a job, one would swallow all that follows.
_MARKER = re.compile(r":(?=:(?:end)?group::)")


def clean(text: str) -> str:
    """Take out of a log what would do something instead of being read.

    :param text: one or more lines.
    """
    if _CONTROL.search(text):
        text = _CONTROL.sub(_visible, text)
    if "group::" in text:
        text = _MARKER.sub(":\u200b", text)
    return text


def colourless(text: str) -> str:
    """Take out colours as well, for where nothing shows them: an exception's text.

    :param text: one or more lines.
    """
    return _COLOUR.sub("", clean(text)) if "\x1b" in text else clean(text)


def without_credentials(text: str) -> str:
    """Hide users and passwords of URLs, which programs show with the command that they were started by.

    :param text: one or more lines.
    """
    return _CREDENTIALS.sub("***", text) if "@" in text else text


def _visible(match: re.Match[str]) -> str:
    if match["colour"]:
        return match["colour"]
    lone = match["lone"]
    if not lone:
        return ""
    return chr(0x2400 + ord(lone)) if lone < " " else "\ufffd"
