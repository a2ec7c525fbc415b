"""What an extra brings is told by its pip line where it is missing."""

from __future__ import annotations

import sys

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure.module.spec import InfrastructureSpec
from ray_provider.infrastructure.run import InfrastructureRun


def test_infrastructure_without_python_terraform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray_provider.infrastructure.terraform.runner", raising=False)
    monkeypatch.setitem(sys.modules, "python_terraform", None)
    spec = InfrastructureSpec(module="eks", backend={"type": "local", "path": "/tmp/x.tfstate"})
    with pytest.raises(ConfigurationError, match="python-terraform is needed") as told, InfrastructureRun(spec):
        pass
    assert "pip install 'airflow-ray[infrastructure]'" in str(told.value)
