"""Bytes to lines: whatever the bytes, wherever they are cut."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_provider.jobs.watch import loglines
from ray_provider.jobs.watch.loglines import MAX_BATCH_BYTES, MAX_BATCH_LINES, MAX_LINE_BYTES, LineCutter, clean


def cut(pieces, offset=0):
    """All lines of a log that comes in pieces."""
    cutter = LineCutter(offset)
    batches = []
    for piece in pieces:
        cutter.feed(piece)
        while batch := cutter.take():
            batches.append(batch)
    while batch := cutter.take(ended=True):
        batches.append(batch)
    return batches


def lines_of(batches):
    return [line for batch in batches for line in batch.text.split("\n")]


def test_lines_indentation_and_unicode_stay():
    data = 'Traceback:\n  File "x"\n\n\tüñï ☃ 🚀\nlast'.encode()
    whole, last = cut([data])
    assert whole.text + "\n" + last.text == data.decode()
    assert (whole.lines, last.lines, last.end_offset) == (4, 1, len(data))


def test_a_character_cut_in_two_stays_whole():
    data = "☃🚀é\n".encode() * 3
    for at in range(len(data)):
        assert lines_of(cut([data[:at], data[at:]])) == ["☃🚀é"] * 3


def test_batches_are_bounded():
    batches = cut([b"x" * 50 + b"\n"] * 2500)
    assert all(batch.lines <= MAX_BATCH_LINES for batch in batches)
    assert sum(batch.lines for batch in batches) == 2500
    batches = cut([b"x" * 10_000 + b"\n"] * 50)
    assert all(len(batch.text) <= MAX_BATCH_BYTES for batch in batches)


def test_a_long_line_comes_in_pieces_and_loses_nothing():
    line = "é☃x".encode() * 1_000_000
    started = time.process_time()
    batches = cut([(line + b"\nnext\n")[start : start + 65536] for start in range(0, len(line) + 6, 65536)])
    assert time.process_time() - started < 2
    assert "".join(lines_of(batches)) == line.decode() + "next"
    assert all(len(batch.text.encode()) <= MAX_LINE_BYTES for batch in batches)


def test_a_progress_bar_shows_its_last_state():
    assert lines_of(cut([b"\r 10%\r 50%\r100%\ndone\r\n"])) == ["100%", "done"]
    bar = b"".join(b"\r%7d/100000 it" % number for number in range(100_000)) + b"\n"
    assert lines_of(cut([bar])) == [" " * 2 + "99999/100000 it"]


def test_a_progress_bar_that_goes_on_can_be_looked_at():
    cutter = LineCutter()
    cutter.feed(b"\r10%\r20%\r3")
    assert cutter.take() is None
    shown = cutter.snapshot()
    assert (shown.text, shown.end_offset) == ("20%", 9)
    cutter.feed(b"0%\n")
    assert cutter.take().text == "30%"


@pytest.mark.parametrize(
    ("given_text", "wanted"),
    [
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("a\x1b[2Kb\x1b[1;1Hc", "abc"),
        ("\x1b]0;title\x07x", "x"),
        ("nul\x00bell\x07", "nul␀bell␇"),
        ("\x1bZ", "␛Z"),
        ("::group::x", ":\u200b:group::x"),
        ("  ::endgroup::", "  :\u200b:endgroup::"),
        (":\x1b[K:group::x", ":\u200b:group::x"),
        ("a::b group: c", "a::b group: c"),
        ("\ttab", "\ttab"),
    ],
)
def test_what_would_do_something_is_only_read(given_text, wanted):
    assert clean(given_text) == wanted


def oracle(data: bytes) -> list[str]:
    """What shall be seen of a log whose lines are all short enough."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [clean(line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")) for line in lines]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode), st.lists(st.integers(0, 300), max_size=8))
def test_the_same_lines_wherever_it_is_cut(data, cuts):
    edges = [0, *sorted(min(each, len(data)) for each in cuts), len(data)]
    pieces = [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    batches = cut(pieces)
    assert lines_of(batches) == oracle(data)
    assert not batches or batches[-1].end_offset == len(data)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=60) | st.text(max_size=30).map(str.encode), max_size=8), st.data())
def test_long_lines_and_resuming_at_any_batch(parts, draw):
    """With a small limit, so that every line is a long one: nothing twice, nothing lost, from any offset on."""
    data = b"\n".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loglines, "MAX_LINE_BYTES", 16)
        patch.setattr(loglines, "MAX_BATCH_BYTES", 40)
        whole = cut([data])
        number = draw.draw(st.integers(0, len(whole)))
        offset = whole[number - 1].end_offset if number else 0
        at = draw.draw(st.integers(offset, max(offset, len(data))))
        again = cut([data[offset:at], data[at:]], offset)
        assert lines_of(whole[:number]) + lines_of(again) == lines_of(whole)
        if b"\r" not in data and "::" not in data.decode("utf-8", "replace"):
            joined = clean(data.replace(b"\n", b"").decode("utf-8", "replace"))
            assert len("".join(lines_of(whole))) <= len(joined) + 4 * len(parts)
            if all(32 <= byte < 128 or byte == 10 for byte in data):
                assert "".join(lines_of(whole)) == joined
