"""A provider that was cut off in the cache does not spoil every run from then on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ray_provider.infrastructure.errors import ProviderCrashError
from tests.infrastructure.lab import stand_in
from tests.infrastructure.runner_modules import Module, make_module, nothing_left_behind
from tests.infrastructure.test_long_apply import MODULE, SCHEMA
from tests.support.terraform import REGISTRY, TOFU_REGISTRY, cli_config, need_terraform, target


def packed(mirror: Path) -> None:
    """Make packages of a mirror's folders: only those are copied into a cache."""
    for registry in (REGISTRY, TOFU_REGISTRY):
        provider = mirror / registry / "hashicorp" / "cloud"
        shutil.make_archive(
            str(provider / f"terraform-provider-cloud_1.0.0_{target()}"), "zip", provider / "1.0.0" / target()
        )
        shutil.rmtree(provider / "1.0.0")


@pytest.fixture
def module(tmp_path: Path) -> Module:
    need_terraform()
    return make_module(tmp_path, MODULE)


@pytest.mark.parametrize("whole_in_mirror", [True, False])
def test_a_damaged_provider_is_fetched_once_more(tmp_path: Path, module: Module, whole_in_mirror: bool) -> None:
    mirror, extra = stand_in.install(tmp_path / "plugin", "cloud", SCHEMA)
    packed(mirror)
    cache = tmp_path / "cache"
    cache.mkdir()
    given = {
        "variables": {"seconds": 0},
        "env": {
            **extra,
            "TF_CLI_CONFIG_FILE": str(cli_config(tmp_path / "cli", [mirror], direct=False)),
            "TF_PLUGIN_CACHE_DIR": str(cache),
            "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE": "true",
        },
    }
    with nothing_left_behind():
        with module.run(**given) as run:
            run.plan()
        (program,) = cache.rglob("terraform-provider-cloud_*")
        program.write_bytes(program.read_bytes()[:10])
        if whole_in_mirror:
            with module.run(**given) as run:
                assert run.plan().counts["create"] == 1
                run.apply()
            assert "The cached provider hashicorp/cloud/1.0.0" in module.text
            assert len(stand_in.made(tmp_path / "plugin", "cloud")) == 1
        else:
            # What was fetched is no better: once is enough.
            (tmp_path / "plugin" / "cloud-schema.json").write_text("no schema")
            with pytest.raises(ProviderCrashError), module.run(**given) as run:
                run.plan()
            assert module.text.count("The cached provider") == 1
