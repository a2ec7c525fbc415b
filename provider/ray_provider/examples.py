"""The example DAGs that come with the package: what there is, and copies to start from."""

from __future__ import annotations

import ast
import shutil
from dataclasses import dataclass
from pathlib import Path

from ray_provider.exceptions import ConfigurationError
from ray_provider.resources import bundled

#: In this order they are told; the first one is the one to start with.
_FIRST = (
    "ray_quickstart",
    "ray_taskflow",
    "ray_shared_cluster",
    "ray_etl",
    "ray_train",
    "ray_batch_inference",
    "ray_large_result",
    "ray_job_of_its_own",
    "ray_serve",
    "ray_model_ops",
    "ray_service",
    "ray_service_approval",
    "ray_nightly_gpus",
)
#: These need a Kubernetes cluster; all others run on the local backend, too.
_ON_KUBERNETES = ("ray_service", "ray_service_approval", "ray_nightly_gpus")
#: What makes things in a cloud is named so.
_IN_A_CLOUD = "ray_infrastructure_"


@dataclass(frozen=True, slots=True)
class Example:
    """An example DAG.

    :param name: of its file and of the DAG.
    :param about: the first sentence of its documentation.
    :param costs_money: whether it makes machines in a cloud.
    :param needs_kubernetes: whether it can't run on the local backend.
    """

    name: str
    about: str
    costs_money: bool
    needs_kubernetes: bool = False


def examples() -> list[Example]:
    """Give the examples, the one to start with first.

    :raises FileNotFoundError: the installation is incomplete.
    """
    found = sorted(bundled("examples", "dags").glob("*.py"), key=lambda path: (_rank(path.stem), path.stem))
    return [
        Example(path.stem, _about(path), path.stem.startswith(_IN_A_CLOUD), path.stem in _ON_KUBERNETES)
        for path in found
    ]


def copy_examples(target: Path, *, overwrite: bool = False) -> list[Path]:
    """Copy the example DAGs, with what they need beside them.

    :param target: a folder, such as Airflow's ``dags``; made if it is not there.
    :param overwrite: replace files there that are different.
    :return: the copies.
    :raises ConfigurationError: there are other files of these names, or the target is no folder; nothing was copied.
    :raises FileNotFoundError: the installation is incomplete.
    """
    source = bundled("examples", "dags")
    names = [
        path.relative_to(source)
        for path in sorted(source.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    if target.exists() and not target.is_dir():
        raise ConfigurationError(f"{target} is no folder.", hint="Name a folder: it is made if it is not there.")
    changed = [name for name in names if _differs(source / name, target / name)]
    if changed and not overwrite:
        raise ConfigurationError(
            f"{target} has other files of these names: {', '.join(map(str, changed))}. Nothing was copied.",
            hint="Name another folder, or give --force to replace them.",
        )
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return [target / name for name in names]


def _differs(ours: Path, theirs: Path) -> bool:
    return theirs.exists() and (not theirs.is_file() or theirs.read_bytes() != ours.read_bytes())


def _rank(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _about(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
