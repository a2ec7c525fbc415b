"""All tests of this folder, in two rows beside each other: in one, Terraform mostly waits for a cloud.

``python -m tests.infrastructure [--partial] [pytest's arguments]``; the second row's output comes when both have ended.
What most of them need is looked for first, and its lack is an error: else dozens of them would be skipped, and the end
would be green. ``--partial`` runs what can be run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Everything else is the other row, which takes as long.
WAITING = ("test_eks_apply.py", "test_modules_terraform.py", "test_orphans.py", "test_place.py")


def missing() -> list[str]:
    """Say what the tests need and this machine has not."""
    from tests.infrastructure.lab import schemas
    from tests.support.terraform import HOW, HOW_AWS, find_mirror, find_terraform

    found = [] if find_terraform() else [f"Terraform. {HOW}"]
    if find_mirror() is None:
        found.append(f"The AWS provider. {HOW_AWS}")
    for provider in schemas.BINDINGS:
        try:
            schemas.schema(provider)
        except RuntimeError as error:
            found.append(f"The schema of the {provider} provider. Run 'python -m tests.support.terraform'. {error}")
    return found


def main() -> int:
    """Run them.

    :return: the first exit status that is not 0.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--partial"]
    lacking = missing()
    for line in lacking:
        print(f"missing: {line}", file=sys.stderr)
    if lacking and arguments == sys.argv[1:]:
        raise SystemExit("Nothing was run: too much would be skipped. '--partial' runs the rest.")
    files = sorted(path.name for path in HERE.glob("test_*.py"))
    gone = set(WAITING) - set(files)
    if gone:
        raise SystemExit(f"{', '.join(gone)} of tests/infrastructure is not there: correct {Path(__file__).name}")
    rows = (WAITING, [name for name in files if name not in WAITING])
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as later:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "pytest", *(str(HERE / name) for name in row), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
            )
            for row, output in zip(rows, (None, later), strict=True)
        ]
        try:
            codes = [process.wait() for process in processes]
        except BaseException:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            raise
        finally:
            later.seek(0)
            sys.stdout.write(later.read())
    print(f"infrastructure tests{' (PARTIAL)' if lacking else ''}: {time.monotonic() - started:.0f} s", flush=True)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
