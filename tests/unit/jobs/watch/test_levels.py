"""Levels of a job's lines: what loggers write is told apart from what merely has the word in it, at no cost."""

from __future__ import annotations

import logging
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_provider.jobs.watch import levels
from ray_provider.jobs.watch.levels import LevelCutter

TIME = "2026-11-29 05:31:50,123"


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """Room as a fresh process has it."""
    monkeypatch.setattr(levels, "_room", levels._Room())


def parts(*texts):
    cutter = LevelCutter()
    return [part for text in texts for part in cutter.parts(text)]


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (f"{TIME} ERROR no room", "error"),
        (f"{TIME}\tERROR worker.py:1841 -- no room", "error"),
        (f"{TIME} - app.model - ERROR - no room", "error"),
        (f"[{TIME}] ERROR in app: no room", "error"),
        (f"{TIME} [main] ERROR a.b.C - no room", "error"),
        ("2026-11-29T05:31:50.123Z | WARNING  | app:run:1 - hot", "warning"),
        ("26/11/29 05:31:50 WARN Executor: hot", "warning"),
        ("05:31:50 CRITICAL no room", "critical"),
        ("ERROR:root:no room", "error"),
        ("WARNING:app.model:hot", "warning"),
        ("ERROR: no room", "error"),
        ("ERROR no room", "error"),
        ("[ERROR] no room", "error"),
        ("[ WARN ] hot", "warning"),
        ("FATAL: no room", "critical"),
        ("E1129 05:31:50.123456 12 file.cc:1] no room", "error"),
        (f"[{TIME} E 12 34] (raylet) file.cc:1: no room", "error"),
        (f"(raylet) [{TIME} W 12 34] file.cc:1: hot", "warning"),
        (f"(f pid=12, ip=10.0.0.1) {TIME} ERROR no room", "error"),
        ("\x1b[36m(f pid=12)\x1b[0m ERROR:root:no room", "error"),
        ("\x1b[31mERROR\x1b[0m: no room", "error"),
        ('{"asctime": "x", "levelname": "ERROR", "message": "no room"}', "error"),
        ('{"event": "no room", "level": "error"}', "error"),
        ("/app/model.py:12: UserWarning: hot", "warning"),
        # The level is what the logger says, not what the message says.
        (f"{TIME} INFO ERROR: is what it printed", "info"),
        ("INFO:root:WARNING: of the day", "info"),
        (f"{TIME} DEBUG ERROR", "info"),
        # Words that happen to be there.
        ("no ERROR here", "info"),
        (f"{TIME} no ERROR found", "info"),
        ("ERRORS were 0", "info"),
        ("error: 0.023", "info"),
        ("ERROR_RATE: 0.1", "info"),
        ("the model [ERROR] rate", "info"),
        ("E 12", "info"),
        ("Epoch 1: loss 0.3", "info"),
        ('{"level": 3}', "info"),
        ("", "info"),
    ],
)
def test_what_a_line_shows(line, level):
    assert parts(line) == [(level, line)]


def test_what_python_logs_is_at_its_level_whatever_of_the_usual_forms_it_has():
    forms = [logging.BASIC_FORMAT, "%(asctime)s %(levelname)s %(message)s", "%(levelname)s - %(message)s", "%(asctime)s - %(name)s - %(levelname)s - %(message)s", "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s", "%(asctime)s [%(levelname)s] %(name)s: %(message)s"]  # fmt: skip
    for form in forms:
        for number, level in ((20, "info"), (30, "warning"), (40, "error"), (50, "critical")):
            record = logging.LogRecord("app.model", number, "x.py", 1, "it went", (), None)
            line = logging.Formatter(form).format(record)
            assert parts(line) == [(level, line)], form


def test_a_traceback_stays_with_its_line():
    speaker = "(f pid=12) "
    error = "\n".join(
        speaker + line
        for line in (
            f"{TIME} ERROR it failed",
            "Traceback (most recent call last):",
            '  File "x.py", line 1, in f',
            "ValueError: bad",
            "",
            "During handling of the above exception, another exception occurred:",
            "",
            "Traceback (most recent call last):",
            '  File "x.py", line 2, in f',
            "KeyError: 'k'",
        )
    )
    assert parts(f"before\n{error}\nafter") == [("info", "before"), ("error", error), ("info", "after")]


def test_a_traceback_stays_with_its_line_over_the_end_of_a_batch():
    first, second = "ERROR:root:it failed\nTraceback (most recent call last):", '  File "x.py", line 1\nValueError: b'
    assert parts(first, second, "after") == [("error", first), ("error", second), ("info", "after")]


def test_what_another_process_says_between_is_not_the_error():
    assert parts("(f pid=1) ERROR: no room\n(g pid=2)   indented\nplain") == [
        ("error", "(f pid=1) ERROR: no room"),
        ("info", "(g pid=2)   indented\nplain"),
    ]


def test_lines_of_one_level_are_one_record():
    text = "\n".join(["plain"] * 40 + [f"{TIME} INFO x"] * 40 + ["  more"] * 20)
    assert parts(text) == [("info", text)]
    errors = "\n".join(["ERROR: a"] * 100)
    assert parts(errors) == [("error", errors)]


def test_a_batch_has_a_bounded_number_of_records_and_errors_are_found_in_the_last():
    text = "\n".join(["plain", "WARNING: a"] * 20 + ["ERROR: b", "plain"] * 10)
    made = parts(text)
    assert len(made) == levels.MAX_PARTS
    assert "\n".join(lines for _, lines in made) == text
    assert made[-1][0] == "error"


def test_a_flood_of_changing_levels_costs_few_further_records(monkeypatch):
    monkeypatch.setattr(levels.time, "monotonic", lambda: 100.0)
    cutter = LevelCutter()
    text = "\n".join(["plain", "ERROR: a"] * 50)
    made = [cutter.parts(text) for _ in range(500)]
    extra = sum(len(one) for one in made) - len(made)
    assert levels.EXTRA_AT_ONCE / 2 < extra <= levels.EXTRA_AT_ONCE
    assert made[-1] == [("error", text)]


def test_the_room_comes_back(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(levels.time, "monotonic", lambda: now[0])
    cutter = LevelCutter()
    text = "plain\nERROR: a"
    while len(cutter.parts(text)) > 1:
        pass
    now[0] += 1.0
    assert cutter.parts(text) == [("info", "plain"), ("error", "ERROR: a")]


# A loaded machine is slow to draw, too: nothing of this is about time.
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(["ERROR: a", "plain", "", "  more", "(f pid=1) ", "[ERROR]", "Traceback (most recent call last):", "\x1b[31m", "WARNING:x:y", '{"level": "error"}']) | st.text(max_size=30), max_size=60))  # fmt: skip
def test_no_line_is_lost_or_moved(lines):
    text = "\n".join(lines)
    made = parts(text)
    assert "\n".join(part for _, part in made) == text
    assert {level for level, _ in made} <= set(levels.LEVELS)


def test_a_long_line_is_looked_at_at_its_beginning_only():
    """Quick where no answer hides at the end: a batch is at most 64 KB, and the event loop waits for it."""
    for line in ("(" * 64_000, "2026-11-29 05:31:50 " + "a." * 32_000, "ERROR" * 12_800, '{"a": ' + '"level' * 10_000):
        began = time.process_time()
        parts(line)
        assert time.process_time() - began < 1.0
