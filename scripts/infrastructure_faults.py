#!/usr/bin/env python3
"""Show that each fault of the infrastructure half is mended: its test on an older commit and on this tree, as a table.

``python scripts/infrastructure_faults.py [--before COMMIT] [--all]``. This tree's tests run against the older commit's
package and modules. Without ``--all`` only the rows that need no cloud, which take seconds each.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESCUE, HALF = "tests/infrastructure/test_state_rescue.py", "tests/infrastructure/test_half_made.py"
PLACE, ORPHANS = "tests/infrastructure/test_place.py", "tests/infrastructure/test_orphans.py"
OPERATORS, UNIT = "tests/infrastructure/test_operators.py", "tests/unit/infrastructure"
#: What was wrong, the test, and whether it needs the emulated cloud.
ROWS = (
    ("a delete in the wrong region", f"{PLACE}::test_a_delete_on_a_worker_of_another_region_finds_what_was_made", True),
    ("errored.tfstate is thrown away", f"{RESCUE} -k can_not_be_saved_is_kept", False),
    ("a working Terraform's folder is removed", f"{RESCUE} -k still_works_is_not_removed", False),
    ("a failed set-up is never cleaned up", f"{HALF} -k by_its_handle_or_without", False),
    ("transient failures are final", f"{UNIT}/terraform/test_failures.py -k real_texts", False),
    ("a damaged provider stays in the cache", "tests/infrastructure/test_provider_cache.py", True),
    ("a changed module can't be destroyed", f"{HALF} -k changed_since_does_not_stop", False),
    ("no way back to the old module", f"{UNIT}/module/test_made_by.py", False),
    ("outputs are checked after the apply", f"{OPERATORS} -k outputs_are_checked_before", False),
    ("XCom `plan` has no bound", f"{OPERATORS} -k large_plan", False),
    ("nothing says whose it is and until when", f"{ORPHANS} -k second_run_changes_nothing", True),
    ("what nobody needs stays", "tests/unit/test_infrastructure_reaper.py", False),
    ("twelve orphans", f"{ORPHANS} -k twelve", True),
    ("an unreachable API server blocks the teardown", f"{ORPHANS} -k keeps_that_it_is_used", True),
)


def outcome(tree: Path, test: str) -> str:
    """Run a test against the package of a tree, and say in a few words how it ended."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree / "provider"), str(tree)]), "AIRFLOW_RAY_TESTS": "all"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *test.split()]
    ran = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    counts = re.findall(r"(\d+) (passed|failed|error|skipped)", ran.stdout.strip().rpartition("\n")[2])
    told = ", ".join(f"{number} {what}" for number, what in counts) or f"exit status {ran.returncode}"
    missing = re.search(r"(?:ImportError|ModuleNotFoundError): (.*)", ran.stdout)
    return f"{told} ({missing[1][:70]})" if missing else told


def main() -> int:
    """Run the rows; the exit status says whether each fails before and passes now."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default="6260089", help="the older commit")
    parser.add_argument("--all", action="store_true", help="also the rows that need the emulated cloud")
    arguments = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(old), arguments.before], check=True)
        try:
            shutil.rmtree(old / "tests")
            shutil.copytree(ROOT / "tests", old / "tests", ignore=shutil.ignore_patterns("__pycache__"))
            print("| fault | test | before | now |\n|---|---|---|---|")
            for fault, test, cloud in ROWS:
                if cloud and not arguments.all:
                    continue
                before, now = outcome(old, test), outcome(ROOT, test)
                good &= "passed" in now and not re.search("failed|error|skipped", now)
                good &= re.search("failed|error|exit", before) is not None
                print(f"| {fault} | `{test}` | {before} | {now} |", flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(old)], check=True)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
