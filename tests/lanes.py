"""Runs the stages of ``make test`` beside each other, and tells of them in one report.

Each waits now and then, in a network of its own: so several run at once (``LANES``), in the order of the table. Two
take all that two CPUs have: with a third one each second of CPU time does a third less. A stage's output is printed when
it ends, and lies in ``.lanes/``. What it started is ended with it; CPU time is that of all its processes, servers included.

``python -m tests.lanes [--all] [STAGE...]``
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / ".lanes"
#: Stages at once, unless ``LANES`` says otherwise. One after the other takes two thirds longer; three wait for each other.
LANES = 2
#: A stage that takes this many times its budget fails.
TOLERANCE = 1.5
#: Seconds between two lines of progress.
PROGRESS = 60
#: Seconds that what a stage has started may go on after it.
GRACE = 20
#: Seconds that a stage has to put things away when it is told to end.
PATIENCE = 120
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Stage:
    """A target of the Makefile.

    :param budget: seconds it takes with warm caches on CI's own machine (two CPUs), with another one beside it.
    :param needs: stages that have to have passed.
    :param builds: it fills caches. What that takes from nothing is added to all budgets: it takes CPUs from the others.
    :param lane: it takes one of the lanes. What waits nearly all the time runs beside them, and so does what builds.
    """

    target: str
    budget: float
    needs: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    builds: bool = False
    lane: bool = True

    def argv(self) -> tuple[str, ...]:
        """Give what is run."""
        low = ("nice", "-n", "19") if self.builds else ()
        return self.command or (*low, "make", "-s", "--no-print-directory", self.target)


#: From nothing the builds take both CPUs for ten minutes. Tests with servers and time limits wait for their end.
_BUILDS = ("kubernetes-build", "control-plane-build", "test-tools")

#: All stages with their budgets, in the order in which they start: the long ones first. On 1 December 2026 they took a
#: tenth to a third less (all: 2,197 s); another machine of that kind took twice as long, which has room.
STAGES = (
    # Nothing is left to build where the caches are warm.
    Stage("kubernetes-build", 1500, builds=True, lane=False),
    Stage("control-plane-build", 200, ("kubernetes-build",), builds=True, lane=False),
    Stage("test-tools", 900, builds=True, lane=False),
    Stage("lint", 90),
    Stage("test-kubernetes", 1500, _BUILDS),
    Stage("test-integration", 1100, _BUILDS),
    Stage("test-apiserver", 850, _BUILDS),
    Stage("test-faults", 650, _BUILDS),
    Stage("test-infrastructure", 550, _BUILDS),
    # A fifth of a CPU: it waits for time-outs of its own.
    Stage("test-unit", 750, lane=False),
    Stage("test-security", 250, _BUILDS),
    Stage("test-helm", 150, ("test-tools",)),
)
#: Seconds for all of them, ``LANES`` at a time.
BUDGET = 2600
#: What ``make test-all`` runs besides, without budgets.
MORE = (Stage("test-celery", 0), Stage("test-compat", 0), Stage("test-kueue", 0), Stage("test-storage", 0))


@dataclass
class Result:
    """How a stage went."""

    stage: Stage
    seconds: float = 0
    cpu: float = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    #: Why the stage has failed; empty: it passed.
    faults: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    ran: bool = True


# One stage --------------------------------------------------------------------------------------------------------


def hold(report: str, grace: float, argv: Sequence[str]) -> int:
    """Run a command as the parent of all that it leaves behind: to count it, and to end it.

    :param report: the file for CPU seconds and what had to be ended by force.
    :param grace: seconds that what was left behind may go on.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    told = False
    child: subprocess.Popen[bytes] | None = None

    def end(*_: object) -> None:
        nonlocal told
        told = True
        if child is not None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            signal.alarm(PATIENCE)

    def force(*_: object) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGALRM, force)
    child = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    if told:  # before there was one
        end()
    code = None
    while code is None:
        pid, status = os.waitpid(-1, 0)  # orphans, too: a test may wait for the end of one
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
    left = _end_what_is_left(grace)
    usage = os.times()
    with open(report, "w", encoding="utf-8") as file:
        json.dump({"cpu": usage.children_user + usage.children_system, "left": [] if told else left}, file)
    return 128 - code if code < 0 else code


def _end_what_is_left(grace: float) -> list[str]:
    """Reap what was orphaned; after a while end it by force, and give its names."""
    named: dict[int, str] = {}
    deadline = time.monotonic() + grace
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        alive = psutil.Process().children(recursive=True)
        if not alive:
            return list(named.values())
        if time.monotonic() > deadline:
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    named[process.pid] = f"{process.name()} ({process.pid})"
                    process.kill()
        time.sleep(0.05)


def count(text: str) -> tuple[int, int, int]:
    """Give how many tests passed, failed (errors included) and were skipped, by pytest's closing lines."""
    sums = {"passed": 0, "failed": 0, "skipped": 0}
    kinds = {"error": "failed", "errors": "failed", "xfailed": "passed"}
    for line in re.findall(r"^(?:=+ )?((?:\d+ \w+(?:, )?)+) in [\d.]+s\b.*$", text, re.MULTILINE):
        for number, kind in re.findall(r"(\d+) (\w+)", line):
            if (known := kinds.get(kind, kind)) in sums:
                sums[known] += int(number)
    return sums["passed"], sums["failed"], sums["skipped"]


# All of them ------------------------------------------------------------------------------------------------------


class Lanes:
    """Runs stages, ``lanes`` at a time.

    :param scale: how many times slower than CI's own this machine is; 0: budgets are not looked at.
    """

    def __init__(self, stages: Sequence[Stage], *, lanes: int = LANES, scale: float = 1.0, logs: Path = LOGS) -> None:
        self.waiting = list(stages)
        self.chosen = {stage.target for stage in stages}
        self.lanes, self.scale, self.logs = lanes, scale, logs
        self.running: dict[str, tuple[Stage, subprocess.Popen[bytes], float]] = {}
        self.results: dict[str, Result] = {}
        self.order = [stage.target for stage in stages]
        self.told = 0
        self.began = time.monotonic()

    def run(self) -> int:
        """Run all, print the report, and give the exit status."""
        self.logs.mkdir(exist_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        progress = time.monotonic() + PROGRESS
        while self.waiting or self.running:
            self._start()
            for target, (_, process, _) in list(self.running.items()):
                if process.poll() is not None:
                    self._ended(target)
            if time.monotonic() > progress:
                self._progress()
                progress = time.monotonic() + PROGRESS
            time.sleep(0.1)
        return self._report()

    def _end(self, number: int, _: object) -> None:
        self.told = number
        say(f"== {signal.Signals(number).name}: ending {', '.join(self.running)}")
        for _, process, _ in self.running.values():
            process.terminate()

    def _start(self) -> None:
        for stage in list(self.waiting):
            needs = [need for need in stage.needs if need in self.chosen]
            broken = [need for need in needs if need in self.results and self.results[need].faults]
            if self.told or broken:
                why = "not run: " + ("told to end" if self.told else f"{', '.join(broken)} failed")
                self.results[stage.target] = Result(stage, faults=[why], ran=False)
                self.waiting.remove(stage)
            elif (not stage.lane or self._busy() < self.lanes) and all(need in self.results for need in needs):
                self.waiting.remove(stage)
                self._start_stage(stage)

    def _busy(self) -> int:
        """Count the lanes that are taken."""
        return sum(stage.lane for stage, _, _ in self.running.values())

    def _start_stage(self, stage: Stage) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        report = self._path(stage, "json")
        report.unlink(missing_ok=True)
        with self._path(stage, "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.lanes", "--hold", report, str(GRACE), *stage.argv()],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[stage.target] = stage, process, time.monotonic()

    def _path(self, stage: Stage, kind: str) -> Path:
        return self.logs / f"{stage.target}.{kind}"

    def _ended(self, target: str) -> None:
        stage, process, began = self.running.pop(target)
        result = Result(stage, seconds=time.monotonic() - began)
        output = self._path(stage, "log").read_text(errors="replace")
        result.passed, result.failed, result.skipped = count(output)
        with suppress(FileNotFoundError, ValueError):
            held = json.loads(self._path(stage, "json").read_text())
            result.cpu, result.left = held["cpu"], held["left"]
        if process.returncode:
            result.faults.append(f"ended with {process.returncode}")
            result.failed = result.failed or 1
        limit = self._limit(stage.budget)
        if limit and result.seconds > limit:
            result.faults.append(
                f"took {result.seconds:.0f} s: its budget is {stage.budget:.0f} s, and {limit:.0f} s is the limit here"
            )
            result.failed = result.failed or 1
        self.results[target] = result
        verdict = f"FAILED: {'; '.join(result.faults)}" if result.faults else "passed"
        say(f"\n{'=' * 30} {target}: output {'=' * 30}\n{output.rstrip()}\n== {target} {verdict} {figures(result)}\n")

    def _limit(self, budget: float) -> float:
        """Give how many seconds are still let pass; 0: any."""
        built = sum(each.seconds for each in self.results.values() if each.stage.builds)
        built += sum(time.monotonic() - began for stage, _, began in self.running.values() if stage.builds)
        return (budget + built) * TOLERANCE * self.scale if budget else 0

    def _progress(self) -> None:
        parts = []
        for target, (stage, _, began) in self.running.items():
            lines = self._path(stage, "log").read_text(errors="replace").rstrip().splitlines()
            last = lines[-1].strip()[-60:] if lines else ""
            parts.append(f"   {target} {time.monotonic() - began:.0f} s  {last}")
        done = sum(1 for result in self.results.values() if result.ran)
        say("\n".join([f"-- {time.monotonic() - self.began:.0f} s, {done} of {len(self.order)} stages ended", *parts]))

    def _report(self) -> int:
        seconds = time.monotonic() - self.began
        results = [self.results[target] for target in self.order]
        say(f"\n{'stage':<22}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}{'budget':>8}{'CPU s':>8}{'CPU':>6}")
        for each in results:
            share = each.cpu / each.seconds / (os.cpu_count() or 1) if each.seconds else 0
            verdict = f"  FAILED: {'; '.join(each.faults)}" if each.faults else ""
            say(
                f"{each.stage.target:<22}{each.passed:>8}{each.failed:>8}{each.skipped:>9}{each.seconds:>9.0f}"
                f"{each.stage.budget:>8.0f}{each.cpu:>8.0f}{share:>6.0%}{verdict}"
            )
        cpu = sum(each.cpu for each in results)
        share = cpu / seconds / (os.cpu_count() or 1) if seconds else 0
        passed, failed, skipped = (sum(getattr(each, k) for each in results) for k in ("passed", "failed", "skipped"))
        say(f"{'all':<22}{passed:>8}{failed:>8}{skipped:>9}{seconds:>9.0f}{BUDGET:>8}{cpu:>8.0f}{share:>6.0%}")
        for each in results:
            for name in each.left:
                say(f"left behind by {each.stage.target} and ended by force: {name}")
            if each.ran and each.faults:
                say(
                    f"\n== {each.stage.target} FAILED: {'; '.join(each.faults)}. Output: {self._path(each.stage, 'log')}"
                )
                output = self._path(each.stage, "log").read_text(errors="replace")
                say("\n".join(re.findall(r"^(?:FAILED|ERROR) .*$", output, re.MULTILINE)))
        failed_stages = [each.stage.target for each in results if each.faults]
        limit = self._limit(BUDGET)
        if limit and seconds > limit:
            say(f"== all stages took {seconds:.0f} s: the budget is {BUDGET} s, and {limit:.0f} s is the limit here")
            failed_stages.append("the budget of all")
            failed = failed or 1
        say(f"\nmake test: {'FAILED: ' + ', '.join(failed_stages) if failed_stages else 'all stages passed'}")
        # As pytest closes, over all stages: for whoever reads the end of it.
        say(f"{passed} passed, {max(failed, len(failed_stages) and 1)} failed, {skipped} skipped")
        return 128 + self.told if self.told else int(bool(failed_stages))


def figures(result: Result) -> str:
    """Say what a stage took."""
    share = result.cpu / result.seconds / (os.cpu_count() or 1) if result.seconds else 0
    return f"({result.seconds:.0f} s, {result.cpu:.0f} s of CPU, {share:.0%} of {os.cpu_count()} CPUs)"


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the stages that are named, or all."""
    if arguments[:1] == ["--hold"]:
        return hold(arguments[1], float(arguments[2]), arguments[3:])
    parser = argparse.ArgumentParser(prog="python -m tests.lanes")
    parser.add_argument(
        "--all", action="store_true", help="the slow tests, test-celery, test-compat and test-kueue, too; no budgets"
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="targets of the Makefile, without: all of them")
    asked = parser.parse_args(arguments)
    known = STAGES + MORE
    unknown = set(asked.stages) - {stage.target for stage in known}
    if unknown:
        parser.error(f"no stage: {', '.join(sorted(unknown))}; there are {', '.join(stage.target for stage in known)}")
    stages = [stage for stage in known if stage.target in asked.stages] if asked.stages else [*STAGES]
    if asked.all:
        os.environ["AIRFLOW_RAY_TESTS"] = "all"
        stages = stages if asked.stages else [*known]
    scale = 0.0 if asked.all else float(os.environ.get("AIRFLOW_RAY_TIME_SCALE") or 1)
    return Lanes(stages, lanes=int(os.environ.get("LANES") or LANES), scale=scale).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
