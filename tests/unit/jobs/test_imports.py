"""What importing the library costs: next to nothing."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_heavy_is_imported_until_a_request_is_made():
    code = (
        "import sys\n"
        "import ray_provider.jobs.watch.watcher, ray_provider.jobs.submit.once, ray_provider.jobs.submit.packaging, "
        "ray_provider.jobs.submit.identity\n"
        "print(sorted({'ray', 'aiohttp', 'airflow', 'pathspec', 'yaml', 'kubernetes_asyncio'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
