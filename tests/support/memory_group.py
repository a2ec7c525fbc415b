"""A control group with a memory limit: what grows over it in there is killed by the kernel, as in a container."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.requirements import need

_ROOT = Path("/sys/fs/cgroup")
_SECONDS = 20


@contextmanager
def memory_group(megabytes: int) -> Iterator[Path]:
    """Make a group, with the hierarchies of cgroup v1 or v2. Its ``cgroup.procs`` takes the ids of processes.

    :param megabytes: the limit.
    """
    is_v1 = (_ROOT / "memory").is_dir()
    group = (_ROOT / "memory" if is_v1 else _ROOT) / f"airflow-ray-test-{os.getpid()}-{time.monotonic_ns()}"
    made = False
    with contextlib.suppress(OSError):
        group.mkdir()
        made = True
        (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(megabytes * 1024**2))
        # No way out by swapping.
        (group / ("memory.swappiness" if is_v1 else "memory.swap.max")).write_text("0")
    try:
        limit = group / ("memory.limit_in_bytes" if is_v1 else "memory.max")
        limited = limit.exists() and limit.read_text().strip() == str(megabytes * 1024**2)
        need("a control group with a memory limit", present=limited, how="Run the tests as root.")
        yield group
    finally:
        deadline = time.monotonic() + _SECONDS
        while made:
            try:
                group.rmdir()
            except OSError:  # busy until the last process is reaped
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                made = False
