"""The stage of the infrastructure tests does not end green when it could test next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_missing_schemas_end_the_stage_loudly(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "CI"}
    env |= {"AIRFLOW_RAY_CACHE": str(tmp_path), "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.infrastructure", "--collect-only", "-q"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0
    assert "missing: The schema of the google provider" in done.stderr
    assert "python -m tests.support.terraform" in done.stderr
    assert "Nothing was run" in done.stderr
