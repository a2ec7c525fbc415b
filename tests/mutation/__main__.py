"""``python -m tests.mutation``: do the tests notice when the code is broken?

Draws mutants by a seed, runs the unit and API server tests that run the changed line on each of them, in copies of the
working tree, and prints those that no test noticed. Ends with 1 if fewer than 80 % were noticed.

Which test runs which line is measured once and kept (``--map``). A test that does not run in the process of the tests
(a job's process, Ray's worker) is not seen by that: for a line that no test runs, the tests of its folder are tried,
first those of files that name its module.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import coverage

from tests.mutation.mutants import AREAS, PACKAGE, Mutant, draw
from tests.mutation.survivors import reason_of

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("tests/unit", "tests/apiserver")
#: Where the tests of a package are, for lines that are not seen to run.
FOLDERS = {
    "jobs": ["tests/unit/jobs"],
    "clusters": ["tests/unit/clusters"],
    "infrastructure": ["tests/unit/infrastructure"],
    "functions": ["tests/unit/functions", "tests/unit/decorators"],
    "top": ["tests/unit"],
}
#: Those of the Airflow glue, whose parts are tested through each other.
GLUE = [f"tests/unit/{name}" for name in ("operators", "hooks", "triggers", "sensors", "decorators", "task_groups")]
FAILED, COLLECTION, USAGE, NO_TESTS = 1, 2, 4, 5


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    :param caught_by: the test that failed, or how else it was noticed; ``None``: it survived.
    """

    mutant: Mutant
    caught_by: str | None
    tests: int
    seconds: float


class Map:
    """Which tests run a line, and how long they take."""

    def __init__(self, folder: Path) -> None:
        self._data = coverage.CoverageData(str(folder / "coverage"))
        self._data.read()
        self.seconds: dict[str, float | None] = json.loads((folder / "tests.json").read_text())
        self._lines: dict[str, dict[int, list[str]]] = {}

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Name the tests that run a mutant's lines, the quickest first; without those that don't pass anyway."""
        lines = self._lines.get(mutant.path)
        if lines is None:
            # Measured in whatever folder the tree was.
            measured = next((one for one in self._data.measured_files() if one.endswith(f"/{mutant.path}")), "")
            lines = self._lines[mutant.path] = self._data.contexts_by_lineno(measured)
        wanted = list(lines) if mutant.whole_file else range(mutant.first, mutant.last + 1)
        found = {test for line in wanted for test in lines.get(line, ()) if test}
        return sorted((t for t in found if self.seconds.get(t) is not None), key=lambda t: self.seconds[t] or 0.0)

    def tests_in(self, folders: list[str], *, naming: str) -> list[str]:
        """Name all tests of some folders or files: first those of files that name a module, the quickest first."""
        own = [(spent, test) for test, spent in self.seconds.items() if spent is not None]
        tests = [test for _, test in sorted(own) if test.startswith(tuple(folders))]
        texts = {file: (ROOT / file).read_text() for file in {test.partition("::")[0] for test in tests}}
        return sorted(tests, key=lambda test: naming not in texts[test.partition("::")[0]])


def measure(folder: Path, layers: list[str]) -> None:
    """Run the layers once, and keep which test runs which line."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    env = {**os.environ, "COVERAGE_FILE": str(folder / "coverage"), "AIRFLOW_RAY_RECORDING": str(folder / "tests.json")}
    for number, layer in enumerate(layers):
        command = [sys.executable, "-m", "coverage", "run", f"--source={PACKAGE}", *(["--append"] if number else [])]
        pytest = ["-m", "pytest", "-q", "-p", "tests.mutation.recording", "-m", "not slow", "--durations=0", layer]
        done = subprocess.run([*command, *pytest], cwd=ROOT, env=env, check=False)
        if done.returncode not in (0, FAILED):
            raise SystemExit(f"{layer} could not be measured: pytest ended with {done.returncode}")
    failing = [test for test, seconds in json.loads((folder / "tests.json").read_text()).items() if seconds is None]
    for test in failing:
        print(f"left out, as it does not pass without a mutant: {test}")


def tracked() -> list[str]:
    """Name the files of the working tree."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    said = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for path in said.stdout.splitlines() if (ROOT / path).is_file()]


def copy_tree(target: Path) -> None:
    """Copy the working tree, without what git ignores."""
    for path in tracked():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path)


def run_tests(copy: Path, tests: list[str], limit: float, *further: str) -> tuple[int, str]:
    """Run tests in a copy until the first fails: pytest's exit code and what it said; ``-1`` when it took too long."""
    env = {**os.environ, "PYTHONPATH": str(copy / "provider"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *further, *tests]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=copy, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()  # fixtures put away what they started (tests/conftest.py)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            code = -1
        said.seek(0)
        return code, said.read()


def judge(mutant: Mutant, known: Map, copy: Path, *, least_limit: float, most: int) -> Verdict:
    """Run what may notice a mutant, unit tests first."""
    began = time.monotonic()
    found = known.tests_of(mutant)
    units = [test for test in found if test.startswith("tests/unit")]
    others = [test for test in found if test not in units]
    if not found:
        units = known.tests_in(FOLDERS.get(mutant.area, GLUE), naming=Path(mutant.path).stem)
    # A row of the API server layer takes seconds, a unit a fraction of one.
    batches = [batch for batch in (units[:most], others[: max(1, most // 10)]) if batch]
    file = copy / mutant.path
    file.write_text(mutant.text)
    try:
        for batch in batches:
            expected = sum(known.seconds.get(test) or 0.0 for test in batch)
            code, said = run_tests(copy, batch, max(least_limit, 4 * expected + 60))
            caught = _noticed(code, said)
            if caught is None and code not in (0, NO_TESTS):
                raise SystemExit(f"{mutant.path}:{mutant.first}: pytest ended with {code}\n{said[-3000:]}")
            if caught is not None:
                return Verdict(mutant, caught, len(found), time.monotonic() - began)
    finally:
        file.write_text(mutant.before)
    return Verdict(mutant, None, len(found), time.monotonic() - began)


def _noticed(code: int, said: str) -> str | None:
    if code == -1:
        return "time limit"
    lines = [line for line in said.splitlines() if line.startswith(("FAILED tests/", "ERROR tests/"))]
    if code in (FAILED, COLLECTION) or (code == USAGE and lines):  # USAGE: a test's file can't be imported
        return lines[0].split(" - ")[0] if lines else "the tests can't be collected"
    return None


def told(verdict: Verdict) -> str:
    """Give a verdict as text: survivors with what was changed."""
    mutant = verdict.mutant
    where = f"{mutant.path}:{mutant.first}  {mutant.kind}"
    if verdict.caught_by is not None:
        return (
            f"caught    {where}  by {verdict.caught_by} ({verdict.tests} tests run the line, {verdict.seconds:.0f} s)"
        )
    reason = reason_of(mutant)
    diff = "\n".join(f"          {line}" for line in mutant.diff.splitlines())
    return f"SURVIVED  {where}  ({verdict.tests} tests run the line, {verdict.seconds:.0f} s)\n{diff}" + (
        f"\n          {reason}" if reason else ""
    )


def report(verdicts: list[Verdict], *, least: float) -> int:
    """Print the figures, and give the exit code."""
    for area in sorted({verdict.mutant.area for verdict in verdicts}):
        own = [verdict for verdict in verdicts if verdict.mutant.area == area]
        print(f"{area:16} {sum(v.caught_by is not None for v in own):3} of {len(own):3} caught")
    caught = sum(verdict.caught_by is not None for verdict in verdicts)
    share = caught / len(verdicts)
    print(f"{'all':16} {caught:3} of {len(verdicts):3} caught: {share:.0%} (at least {least:.0%} are wanted)")
    for verdict in verdicts:
        if verdict.caught_by is None:
            print(told(verdict))
    return 0 if share >= least else 1


def main() -> int:
    """Draw, run, report."""
    arguments = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    arguments.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")), help="default: today's date")
    arguments.add_argument("--count", type=int, default=60)
    arguments.add_argument("--least", type=int, default=5, help=f"of each of {', '.join(AREAS)}")
    arguments.add_argument("--share", type=float, default=0.8, help="that has to be caught")
    arguments.add_argument("--jobs", type=int, default=2, help="mutants at once")
    arguments.add_argument("--limit", type=float, default=120, help="seconds for a mutant at least")
    arguments.add_argument("--layers", nargs="+", default=list(LAYERS))
    arguments.add_argument("--map", type=Path, help="folder of what was measured; measured anew if it is not there")
    arguments.add_argument(
        "--most",
        type=int,
        default=200,
        help="units for a mutant at most, the quickest, and a tenth as many API server tests",
    )
    arguments.add_argument("--only", nargs="+", metavar="PATH:LINE", help="those of the draw, once more")
    arguments.add_argument("--part", default="1/1", help="1/4: the first of four parts of the draw")
    asked = arguments.parse_args()
    part, parts = map(int, asked.part.split("/"))
    with tempfile.TemporaryDirectory(prefix="airflow-ray-mutants-") as scratch:
        folder = asked.map or Path(scratch, "map")
        if not (folder / "tests.json").exists():
            measure(folder, asked.layers)
        known = Map(folder)
        files = [path for path in tracked() if path.startswith(f"{PACKAGE}/") and path.endswith(".py")]
        drawn = draw(ROOT, files, seed=asked.seed, count=asked.count, least=asked.least)[part - 1 :: parts]
        if asked.only:
            drawn = [mutant for mutant in drawn if f"{mutant.path}:{mutant.first}" in asked.only]
        print(f"seed {asked.seed}: {len(drawn)} mutants", flush=True)
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(asked.jobs):
            copy = Path(scratch, f"copy-{number}")
            copy_tree(copy)
            where = [sys.executable, "-c", "import ray_provider; print(ray_provider.__file__)"]
            env = {**os.environ, "PYTHONPATH": str(copy / "provider")}
            said = subprocess.run(where, cwd=copy, env=env, check=True, capture_output=True, text=True).stdout
            assert said.startswith(str(copy)), f"{said.strip()} is imported instead of the copy {copy}"
            copies.put(copy)

        def one(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                verdict = judge(mutant, known, copy, least_limit=asked.limit, most=asked.most)
            finally:
                copies.put(copy)
            print(told(verdict), flush=True)
            return verdict

        with ThreadPoolExecutor(asked.jobs) as pool:
            verdicts = list(pool.map(one, drawn))
    return report(verdicts, least=asked.share)


if __name__ == "__main__":
    sys.exit(main())
