"""The level that a job's log lines show, so that a filter for errors in Airflow finds them.

Many lines go into one record, since each record is a blocking write that all triggers of a process share. So lines are
parted only where the level changes, and only while there is room for more records.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from ray_provider._shared.plain_text import colourless

#: Methods of a logger, by rising weight. What a job calls DEBUG is INFO here: Airflow would drop it.
LEVELS = ("info", "warning", "error", "critical")
#: A batch becomes at most so many records.
MAX_PARTS = 20
#: Further records of all batches of a process: so many a second, so many at once. Airflow takes about 2,000 a second.
EXTRA_PER_SECOND = 200.0
EXTRA_AT_ONCE = 400.0
#: Where a line shows its level, it does so at its beginning.
_HEAD = 400

_NAMES = {
    "debug": "info",
    "info": "info",
    "notice": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
    "fatal": "critical",
}
_LETTERS = {"I": "info", "W": "warning", "E": "error", "F": "critical", "C": "critical"}
#: Text without any of these shows no level but that of ordinary lines, and goes through untouched.
_WORDS = ("WARN", "ERROR", "CRITICAL", "FATAL", "Warning: ", '"level', '"severity"')
_LETTER = re.compile(r"[WEFC](?:\d{4}| \d)")
#: Ray writes who speaks before what a worker says: ``(f pid=1, ip=10.0.0.1)``.
_SPEAKER = re.compile(r"\([^()\n]{1,200}\) ?")
_WORD = r"(?P<word>DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|CRITICAL|FATAL)"
_TIME = r"(?:\d{2,4}[-/]\d\d[-/]\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[ ]?[+-]\d\d:?\d\d)?"
_SHOWN = re.compile(
    rf"""
    (?:
        # 2026-11-29 05:31:50,123 ERROR …, [time] ERROR in app: …, time - name - ERROR - …, time [main] ERROR …
        \[?{_TIME}\]?[\s|,:-]{{1,8}}
        (?:(?:\[[^\]\n]{{1,100}}\]|[\w.\-]{{1,100}}[ ]?[|:-])[ ]?){{0,2}}?
        [\[(<]?{_WORD}[\])>]?(?=[\s:|/\-]|$)
        # ERROR:root:…, ERROR: …, [ERROR] …, ERROR …
        | [\[(<][ ]*{_WORD.replace("word", "framed")}[ ]*[\])>]
        | {_WORD.replace("word", "bare")}(?=[\s:|]|$)
        # E1129 05:31:50.123456 12 file.cc:1] …, [2026-11-29 05:31:50,123 E 12 34] …
        | (?P<letter>[IWEFC])\d{{4,8}}[ ]\d\d:\d\d:\d\d
        | \[{_TIME}[ ](?P<inner>[IWEFC])[ ]\d
        # path/file.py:12: UserWarning: …
        | \S{{1,300}}:\d+:[ ](?P<python>\w*Warning):[ ]
    )
    """,
    re.VERBOSE,
)
_JSON = re.compile(r"\"(?:level|levelname|severity)\"\s*:\s*\"(\w{1,20})\"")
#: What belongs to the line before it: what is indented, empty lines, and what a traceback consists of.
_CONTINUES = re.compile(
    r"\s|$|Traceback \(most recent call last\)|During handling of the above|The above exception was"
)


def level_of(line: str) -> str | None:
    """Tell which level a line shows.

    :param line: without colours, and without who speaks.
    :return: one of :data:`LEVELS`; ``None``: it shows none.
    """
    head = line[:_HEAD]
    found = _SHOWN.match(head)
    if found:
        word = found["word"] or found["framed"] or found["bare"]
        if word:
            return _NAMES[word.lower()]
        return "warning" if found["python"] else _LETTERS[found["letter"] or found["inner"]]
    if head.startswith("{"):
        named = _JSON.search(line[: 5 * _HEAD])
        return _NAMES.get(named[1].lower()) if named else None
    return None


@dataclass(slots=True)
class _Room:
    """How many more records there is room for: of all jobs that this process follows."""

    left: float = EXTRA_AT_ONCE
    at: float = 0.0

    def take(self, wanted: int) -> int:
        """Take up to so many; give how many it were.

        :param wanted: how many there are.
        """
        now = time.monotonic()
        self.left = min(EXTRA_AT_ONCE, self.left + (now - self.at) * EXTRA_PER_SECOND)
        self.at = now
        taken = min(wanted, int(self.left))
        self.left -= taken
        return taken


_room = _Room()


class LevelCutter:
    """Parts the batches of one job's log where the level changes. Remembers what the next lines may belong to."""

    def __init__(self) -> None:
        self._level = "info"
        self._speaker = ""
        self._in_traceback = False

    def parts(self, text: str) -> list[tuple[str, str]]:
        """Part some lines by their level. No line is lost, and none is moved.

        Where there are more changes than room, the last part holds all lines that are left, at the highest level among
        them: a filter for errors finds them there.

        :param text: whole lines.
        :return: level and lines, in order.
        """
        if self._level == "info" and not any(word in text for word in _WORDS) and not _LETTER.search(text):
            return [("info", text)]
        parts: list[tuple[str, list[str]]] = []
        for line in text.split("\n"):
            level = self._next(line)
            if not parts or parts[-1][0] != level:
                parts.append((level, []))
            parts[-1][1].append(line)
        if len(parts) > 1:
            room = 1 + _room.take(min(len(parts), MAX_PARTS) - 1)
            if len(parts) > room:
                rest = parts[room - 1 :]
                highest = max((level for level, _ in rest), key=LEVELS.index)
                parts[room - 1 :] = [(highest, [line for _, lines in rest for line in lines])]
        return [(level, "\n".join(lines)) for level, lines in parts]

    def _next(self, line: str) -> str:
        """Tell the level of the next line."""
        plain = colourless(line) if "\x1b" in line else line
        speaks = _SPEAKER.match(plain)
        speaker = speaks[0] if speaks else ""
        said = plain[len(speaker) :]
        shown = level_of(said)
        if shown is None and speaker == self._speaker and self._continues(said):
            return self._level
        self._level, self._speaker, self._in_traceback = shown or "info", speaker, False
        return self._level

    def _continues(self, said: str) -> bool:
        """Tell whether a line without a level belongs to the one before it, of the same speaker."""
        if _CONTINUES.match(said):
            self._in_traceback = self._in_traceback or said.startswith("Traceback")
            return True
        # The exception itself, which ends a traceback.
        ends, self._in_traceback = self._in_traceback, False
        return ends
