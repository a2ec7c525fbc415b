"""The demonstration tells of every state, whenever it looks."""

from __future__ import annotations

from pathlib import Path

from ray_provider.testing import demo
from ray_provider.testing.demo import Demo


class Ends:
    """An Airflow whose run ends right after somebody has looked at its tasks."""

    def __init__(self) -> None:
        self.looks = 0

    def task_instances(self, *_: str) -> list[dict[str, str]]:
        self.looks += 1
        return [{"task_id": "delete", "state": "running" if self.looks == 1 else "success"}]

    def run(self, *_: str) -> dict[str, str]:
        return {"state": "success" if self.looks else "running"}


def test_the_last_state_of_a_task_is_told_although_the_run_ends_with_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "_LOOK_SECONDS", 0.0)
    states: dict[str, str] = {}
    assert Demo(Path(), tmp_path / "image.png")._follow(Ends(), "run", states) == "success"
    assert "delete: success" in capsys.readouterr().out
    assert states == {"delete": "success"}
