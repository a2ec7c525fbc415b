"""Providers between runs: what was cut off in the cache is fetched again, what changed under its version is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_provider.infrastructure.errors import ProviderChangedError, ProviderCrashError
from tests.infrastructure.lab import stand_in
from tests.infrastructure.runner_modules import Module, make_module, nothing_left_behind
from tests.infrastructure.test_long_apply import MODULE, SCHEMA
from tests.support.requirements import need
from tests.support.terraform import (
    REGISTRY,
    TOFU_REGISTRY,
    cli_config,
    find_opentofu,
    need_terraform,
    target,
)


def packed(mirror: Path) -> None:
    """Make packages of a mirror's folders: only those are copied into a cache."""
    for registry in (REGISTRY, TOFU_REGISTRY):
        provider = mirror / registry / "hashicorp" / "cloud"
        shutil.make_archive(
            str(provider / f"terraform-provider-cloud_1.0.0_{target()}"), "zip", provider / "1.0.0" / target()
        )
        shutil.rmtree(provider / "1.0.0")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a state's lock file is kept, and nothing of it lies open."""
    folder = tmp_path / "kept"
    monkeypatch.setenv("RAY_PROVIDER_KEPT_STATES", str(folder))
    yield folder
    assert [path for path in folder.rglob("*") if path.stat().st_mode & 0o077] == []


@pytest.fixture
def module(tmp_path: Path) -> Module:
    need_terraform()
    return make_module(tmp_path, MODULE)


@pytest.mark.parametrize("whole_in_mirror", [True, pytest.param(False, marks=pytest.mark.slow)])
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


class Shop:
    """A mirror in a home of its own, whose archives may change, and a cache that is filled from it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, program: Any) -> None:
        mirror, extra = stand_in.install(folder / "plugin", "cloud", SCHEMA)
        packed(mirror)
        home = folder / "home"
        self.marker = folder / "changed-one-was-started"
        self.providers = home / ".terraform.d" / "plugins"
        self.cache = home / ".cache" / "airflow-ray" / "terraform-providers"
        shutil.copytree(mirror, self.providers)
        self.given = {
            "variables": {"seconds": 0},
            "binary": str(program.path),
            "env": {**extra, "HOME": str(home), "XDG_CACHE_HOME": "", "XDG_DATA_HOME": str(home / "data")},
        }
        for name in ("TF_CLI_CONFIG_FILE", "TF_PLUGIN_CACHE_DIR", "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE"):
            monkeypatch.delenv(name, raising=False)

    def archives(self) -> list[Path]:
        return list(self.providers.rglob("terraform-provider-cloud_1.0.0_*.zip"))

    def change(self, program: Path) -> None:
        """It works as before, and does something else first."""
        program.write_text(program.read_text().replace("#!/bin/sh", f"#!/bin/sh\ntouch '{self.marker}'"))
        program.chmod(0o755)

    def change_archives(self, folder: Path) -> None:
        for number, archive in enumerate(self.archives()):
            content = folder / str(number)
            shutil.unpack_archive(archive, content)
            self.change(next(content.iterdir()))
            shutil.make_archive(str(archive.with_suffix("")), "zip", content)

    def publish(self, version: str) -> None:
        for archive in self.archives():
            shutil.copy(archive, archive.with_name(archive.name.replace("1.0.0", version)))


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    program = find_opentofu() if getattr(request, "param", "") == "opentofu" else need_terraform()
    need("OpenTofu", present=program is not None, how="Run 'python -m tests.support.terraform opentofu' (needs Go).")
    return Shop(tmp_path, monkeypatch, program)


#: In `make test` the one that is found first shows it: what is compared and refused is ours.
both = pytest.mark.parametrize("shop", ["terraform", pytest.param("opentofu", marks=pytest.mark.slow)], indirect=True)


@both
def test_a_provider_that_changed_under_its_version_is_refused(
    tmp_path: Path, module: Module, shop: Shop, kept: Path
) -> None:
    with nothing_left_behind():
        module.apply(**shop.given)
        shop.change_archives(tmp_path)
        # Another worker, or one whose cache was cleared.
        shutil.rmtree(shop.cache)
        with pytest.raises(ProviderChangedError, match="hashicorp/cloud 1.0.0") as caught, module.run(**shop.given):
            pass
        assert not shop.marker.exists(), "it was started"
        (lock_file,) = (path for path in kept.rglob("*") if path.is_file())
        assert str(lock_file) in str(caught.value)
        # The way on that the error tells.
        lock_file.unlink()
        with module.run(**shop.given) as run:
            assert run.plan().is_empty
        assert shop.marker.exists(), "the test shows nothing: nobody would see a changed provider"


@both
def test_a_provider_that_changed_in_the_cache_is_fetched_anew(module: Module, shop: Shop) -> None:
    with nothing_left_behind():
        module.apply(**shop.given)
        (program,) = shop.cache.rglob("terraform-provider-cloud_*")
        shop.change(program)
        with module.run(**shop.given) as run:
            assert run.plan().is_empty
            assert "Providers as in the last apply of this state: hashicorp/cloud 1.0.0." in module.text
    assert not shop.marker.exists()


def test_a_state_keeps_its_providers_until_the_module_wants_others(module: Module, shop: Shop, kept: Path) -> None:
    def used() -> dict[str, str]:
        with module.run(**shop.given) as run:
            run.plan()
            return {name.partition("/")[2]: one for name, one in run.made_by()["providers"].items()}

    with nothing_left_behind():
        with module.run(**shop.given) as run:
            run.plan()
        assert not kept.exists(), "what was only planned with is not kept"
        module.apply(**shop.given)
        shop.publish("1.1.0")
        assert used() == {"hashicorp/cloud": "1.0.0"}
        main = module.folder / "main.tf"
        main.write_text(main.read_text().replace('"hashicorp/cloud"', '"hashicorp/cloud"\n      version = ">= 1.1"'))
        assert used() == {"hashicorp/cloud": "1.1.0"}
        main.write_text(MODULE)
        for archive in shop.archives():
            archive.unlink()
        shutil.rmtree(shop.cache)
        assert used() == {"hashicorp/cloud": "1.1.0"}
        assert module.text.count("or they are gone: others are chosen") == 2


def test_a_lock_file_of_the_module_counts_from_the_first_run_on(tmp_path: Path, module: Module, shop: Shop) -> None:
    with nothing_left_behind():
        with module.run(**shop.given) as run:
            run.plan()
            made = Path(str(run.runner.working_dir)) / ".terraform.lock.hcl"
            shutil.copy(made, module.folder)
        shop.change_archives(tmp_path)
        shutil.rmtree(shop.cache)
        with pytest.raises(ProviderChangedError, match="providers lock -platform="), module.run(**shop.given):
            pass
        assert not shop.marker.exists()
        # Another one, with which somebody says that it is meant.
        (module.folder / ".terraform.lock.hcl").unlink()
        module.apply(**shop.given)
        assert shop.marker.exists()
