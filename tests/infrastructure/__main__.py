"""All tests of this folder, in two rows beside each other: in one, Terraform mostly waits for a cloud.

``python -m tests.infrastructure [pytest's arguments]``; the second row's output comes when both have ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Everything else is the other row.
WAITING = ("test_eks_apply.py", "test_modules_terraform.py")


def main() -> int:
    """Run them.

    :return: the first exit status that is not 0.
    """
    files = sorted(path.name for path in HERE.glob("test_*.py"))
    missing = set(WAITING) - set(files)
    if missing:
        raise SystemExit(f"{', '.join(missing)} of tests/infrastructure is not there: correct {Path(__file__).name}")
    rows = (WAITING, [name for name in files if name not in WAITING])
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as later:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "pytest", *(str(HERE / name) for name in row), *sys.argv[1:]],
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
    print(f"infrastructure tests: {time.monotonic() - started:.0f} s", flush=True)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
