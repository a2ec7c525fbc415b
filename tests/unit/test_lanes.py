"""``make test`` runs stages beside each other: it tells of each, fails loudly, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.lanes import MORE, STAGES, count
from tests.support.requirements import need

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import pathlib, sys
from tests import lanes
from tests.lanes import Stage
lanes.GRACE = 0.5
sys.exit(lanes.Lanes({stages}, lanes={lanes}, logs=pathlib.Path({logs!r})).run())
"""


def shell(target: str, script: str, *, budget: float = 60, needs: tuple[str, ...] = ()) -> str:
    return f"Stage({target!r}, {budget}, {needs!r}, ('bash', '-c', {script!r}))"


def start(logs: Path, *stages: str, lanes: int = 2) -> subprocess.Popen[str]:
    code = RUN.format(stages=f"[{', '.join(stages)}]", lanes=lanes, logs=str(logs))
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def run(logs: Path, *stages: str, lanes: int = 2) -> tuple[int, str]:
    process = start(logs, *stages, lanes=lanes)
    printed, _ = process.communicate(timeout=60)
    return process.returncode, printed


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_stages_run_beside_each_other_and_are_told_of_in_one_report(tmp_path: Path) -> None:
    # Each waits for the other's sign: one after the other they would never end.
    meet = f"touch {tmp_path}/$0; for i in $(seq 100); do [ -e {tmp_path}/$1 ] && break; sleep 0.1; done; [ $i != 100 ]"
    one, two = (
        f"echo begin-{me}; bash -c '{meet}' {me} {other} || exit 1; echo '3 passed, 1 skipped, 7 deselected in 1.2s'; echo end-{me}"
        for me, other in (("a", "b"), ("b", "a"))
    )
    code, printed = run(tmp_path / "logs", shell("a", one), shell("b", two))
    assert code == 0, printed
    assert printed.splitlines()[-2:] == ["make test: all stages passed", "6 passed, 0 failed, 2 skipped"]
    words = re.findall(r"^(?:begin|end)-.", printed, re.MULTILINE)
    assert words in (["begin-a", "end-a", "begin-b", "end-b"], ["begin-b", "end-b", "begin-a", "end-a"])
    assert re.search(r"^a +3 +0 +1 ", printed, re.MULTILINE)


def test_what_waits_most_of_the_time_takes_no_lane(tmp_path: Path) -> None:
    waits = shell("waits", f"for i in $(seq 100); do [ -e {tmp_path}/ran ] && exit 0; sleep 0.1; done; exit 1")
    code, printed = run(
        tmp_path, waits.removesuffix(")") + ", lane=False)", shell("works", f"touch {tmp_path}/ran"), lanes=1
    )
    assert code == 0, printed


def test_a_stage_that_fails_is_told_with_its_tests_and_what_needs_it_is_not_run(tmp_path: Path) -> None:
    failing = (
        "echo 'FAILED tests/x.py::test_y - boom'; echo '= 1 failed, 2 passed, 1 error in 3.00s (0:00:03) ='; exit 1"
    )
    stages = (shell("built", failing), shell("other", "true"), shell("on it", "echo ran", needs=("built",)))
    code, printed = run(tmp_path, *stages)
    assert code == 1
    assert "== built FAILED: ended with 1" in printed
    assert "not run: built failed" in printed
    end = printed[printed.index("stage  ") :]
    assert "FAILED tests/x.py::test_y - boom" in end
    assert end.splitlines()[-2:] == ["make test: FAILED: built, on it", "2 passed, 2 failed, 0 skipped"]
    assert not (tmp_path / "on it.log").exists()


def test_a_stage_that_passes_its_budget_by_half_fails(tmp_path: Path) -> None:
    code, printed = run(tmp_path, shell("slow", "sleep 1; echo '1 passed in 1.00s'", budget=0.2))
    assert code == 1
    assert "its budget is 0 s" in printed
    assert printed.splitlines()[-1] == "1 passed, 1 failed, 0 skipped"


def test_what_has_to_be_built_first_is_added_to_the_budgets(tmp_path: Path) -> None:
    build = shell("built", "sleep 2").removesuffix(")") + ", builds=True)"
    code, printed = run(tmp_path, build, shell("slow", "sleep 0.3", budget=0.1, needs=("built",)))
    assert code == 0, printed


def test_the_cpu_time_of_what_a_stage_leaves_behind_counts_and_it_is_ended(tmp_path: Path) -> None:
    need("Linux", present=sys.platform == "linux", how="Orphans come to the runner there.")
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, pathlib, time\n"
        "while time.process_time() < 1.2: pass\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    script = f"(setsid {sys.executable} {worker} >/dev/null 2>&1 &); until [ -s {tmp_path}/pid ]; do sleep 0.1; done"
    code, printed = run(tmp_path, shell("leaves", script))
    assert code == 0, printed
    assert "left behind by leaves and ended by force: python" in printed
    assert gone(int((tmp_path / "pid").read_text()))
    assert int(re.search(r"leaves passed \(\d+ s, (\d+) s of CPU", printed)[1]) >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_goes_on_when_the_runner_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    need("Linux", present=sys.platform == "linux", how="The kernel's part in it is Linux's.")
    script = f"trap 'touch {tmp_path}/away; exit 1' TERM; echo $$ >{tmp_path}/pid; sleep 60 & wait"
    process = start(tmp_path, shell("long", script), shell("next", "true"), lanes=1)
    until = time.monotonic() + 30
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(number)
    printed, _ = process.communicate(timeout=30)
    while not gone(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(pid)
    assert (tmp_path / "away").exists(), "it could not put things away"
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "not run: told to end" in printed


def test_all_closing_lines_of_pytest_count() -> None:
    text = (
        "5 passed in 312.33s (0:05:12)\n"
        "============ 1 failed, 20 passed, 3 skipped, 2 deselected, 4 warnings, 2 errors in 10.05s ============\n"
        "12 passed in a sentence\n"
    )
    assert count(text) == (25, 3, 3)


def rules() -> dict[str, tuple[str, str]]:
    """Give what each target of the Makefile needs, and its recipe."""
    text = (ROOT / "Makefile").read_text() + "".join(path.read_text() for path in (ROOT / "mk").glob("*.mk"))
    found = re.findall(r"^([a-z-]+):([^\n#]*)[^\n]*\n((?:\t.*\n)*)", text, re.MULTILINE)
    return {target: (needs, recipe) for target, needs, recipe in found}


def test_every_folder_of_tests_has_a_stage() -> None:
    known = rules()
    stages = [stage.target for stage in STAGES + MORE]
    assert set(stages) <= set(known)
    run = " ".join(known[target][1] for target in stages).replace(".", "/")
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    missing = {
        str(folder.relative_to(ROOT))
        for folder in folders
        if not any(str(each.relative_to(ROOT)) in run for each in (folder, *folder.parents[: len(folder.parts) - 3]))
    }
    assert not missing, f"no stage of tests/lanes.py runs {missing}"
    assert os.access(ROOT / ".ci" / "run", os.R_OK)


def test_what_needs_an_api_server_has_it_built_first() -> None:
    """On a machine with an empty cache, and where a stage runs alone."""
    known = rules()
    stages = [stage.target for stage in STAGES + MORE if not stage.builds]
    import_ = re.compile(r"^from tests\.support(?:\.control_plane import| import .*\bcontrol_plane\b)", re.MULTILINE)
    users = {
        path.relative_to(ROOT / "tests").parts[0]
        for path in (ROOT / "tests").rglob("*.py")
        if import_.search(path.read_text()) and path.parent.name != "support"
    }
    assert {"apiserver", "infrastructure", "kueue"} <= users
    for folder in users:
        runs = re.compile(rf"(?:RUN\)|isolated) .*\btests[/.]{folder}\b(?!/)")
        running = [name for name in stages if runs.search(known[name][1])]
        assert running, folder
        assert [name for name in running if "control-plane-build" not in known[name][0].split()] == []
