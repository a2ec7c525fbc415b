from __future__ import annotations

import pytest

from tests.support.helm import Helm, tool


@pytest.fixture(scope="session", params=["helm3", "helm4"])
def helm(request, tmp_path_factory) -> Helm:
    """Both Helms, one after the other."""
    return Helm(tool(request.param), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def helm4(tmp_path_factory) -> Helm:
    return Helm(tool("helm4"), tmp_path_factory.mktemp("helm"))
