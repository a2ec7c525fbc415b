"""The examples by hand, without Python: the commands of the documentation, as they stand, in a shell."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.infrastructure.lab.aws_server import AwsServer
from tests.infrastructure.lab.provider import workspace
from tests.support.helm import CHART, tool
from tests.support.terraform import ROOT, Workspace, copy_tree, environment, need_aws_provider, need_terraform

DOCUMENT = ROOT / "docs" / "infrastructure.md"
#: These need a cluster; the rest is run as it is written. Helm renders, and sends nothing.
CLUSTER_COMMANDS = ("aws ", "gcloud ", "kubectl ")


def documented(example: str, *, apply: bool) -> str:
    """Give the commands that the documentation has for an example.

    :param apply: all of them; else those before the apply.
    """
    section = DOCUMENT.read_text().partition("## Without Python, without Airflow")[2].partition("\n## ")[0]
    (block,) = [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if "terraform init" in block]
    assert "cd terraform/examples/eks-gpu" in block
    block = block.replace("eks-gpu", example)
    lines = [line for line in block.splitlines() if not line.startswith(CLUSTER_COMMANDS)]
    if not apply:
        lines = lines[: lines.index("terraform apply plan")]
    return re.sub(r"^helm install (.*)$", r'helm template \1 > "$MANIFEST"', "\n".join(lines), flags=re.MULTILINE)


@pytest.fixture
def eks(tmp_path: Path) -> Iterator[Workspace]:
    program = need_terraform()
    with AwsServer(log=tmp_path / "requests.log") as aws:
        env = environment(tmp_path / "cli", program=program, mirrors=[need_aws_provider()], extra=aws.env)
        yield Workspace(copy_tree(tmp_path), program, env)


@pytest.fixture
def gke(tmp_path: Path) -> Workspace:
    found = workspace(tmp_path, "google", ".")
    found.env["TF_VAR_project"] = "my-project"
    return found


@pytest.mark.parametrize(
    ("cloud", "example", "groups"),
    [
        # In `make test` the same commands on the other cloud, to their end; this module is applied by test_eks_apply.py.
        pytest.param("eks", "eks-gpu", {"cpu", "a10g"}, marks=pytest.mark.slow),
        ("gke", "gke-gpu", {"cpu", "l4"}),
    ],
)
def test_by_hand_from_init_to_helm(
    request: pytest.FixtureRequest, tmp_path: Path, cloud: str, example: str, groups: set[str]
) -> None:
    target: Workspace = request.getfixturevalue(cloud)
    here = target.folder.parent
    (here / "helm").mkdir()
    (here / "helm" / "ray-cluster").symlink_to(CHART, target_is_directory=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "terraform").symlink_to(target.program.path)
    (programs / "helm").symlink_to(tool("helm3"))
    env = {**target.env, "PATH": f"{programs}:{os.environ['PATH']}", "KUBECONFIG": os.devnull, "HOME": str(tmp_path)}
    env |= {"TF_CLI_ARGS": "-no-color", "MANIFEST": str(tmp_path / "manifest.yaml")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", documented(example, apply=cloud == "gke")],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr}"
    assert re.search(r"Plan: \d\d to add, 0 to change, 0 to destroy.", done.stdout)
    if cloud == "eks":
        # Applied, and its values given to the chart, is the module itself in test_eks_apply.py: it takes minutes.
        return
    assert "Apply complete!" in done.stdout
    manifest = (tmp_path / "manifest.yaml").read_text()
    (cluster,) = [item for item in yaml.safe_load_all(manifest) if item and item["kind"] == "RayCluster"]
    assert {group["groupName"] for group in cluster["spec"]["workerGroupSpecs"]} == groups
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    assert head["nodeSelector"] == {"ray-pool": "system"}
    assert head["serviceAccountName"] == "ray"
