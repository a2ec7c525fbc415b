"""What Trivy says of the modules: a finding that is not known here fails, as one that is gone does."""

from __future__ import annotations

import pytest

from tests.support import trivy
from tests.support.requirements import need
from tests.support.terraform import MODULES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: By module: a log of who reads the bucket, and labels, which are an input. `terraform/.checkov.yaml` says why not (CKV_AWS_18,
#: CKV_GCP_21).
KNOWN: dict[str, list[tuple[str, str]]] = {"eks": [("AWS-0089", "LOW")], "gke": [("GCP-0051", "LOW")]}


def test_trivy_finds_nothing_new() -> None:
    need("Trivy's scanner", present=trivy.program().exists(), how=trivy.HOW)
    report = trivy.scan(MODULES)
    found = {
        name: sorted((one.id, one.severity) for one in report.failed if one.file.startswith(f"{name}/"))
        for name in KNOWN
    }
    assert found == KNOWN
    assert {one.file for one in report.failed if one.file.partition("/")[0] not in KNOWN} == set()
    assert report.passed > 50, "it has looked at them"
    assert report.ignored == 0
