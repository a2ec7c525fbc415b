"""The modules on plugins made from the providers' published schemas: google 8.x, and AWS 6.x.

What these plugins know is the providers' shape. That Google Cloud takes it is not shown here.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_provider.infrastructure.idle import IdleCost
from tests.infrastructure.lab import stand_in
from tests.infrastructure.lab.provider import need_schema, workspace
from tests.support.helm import CHART, tool
from tests.support.terraform import Workspace

NAME = "raytest"
POOLS: dict[str, Any] = {
    "cpu": {"machine_type": "n2-standard-8", "max": 4},
    "l4": {
        "machine_type": "g2-standard-48",
        "capacity": "spot",
        "max": 2,
        "gpu_sharing": {"strategy": "TIME_SHARING", "clients": 2},
    },
    "t4": {
        "machine_type": "n1-standard-8",
        "accelerator": {"type": "nvidia-tesla-t4", "count": 1},
        "capacity": "flex_start",
        "max_run_duration": "86400s",
    },
    "h100": {
        "machine_type": "a3-highgpu-8g",
        "capacity": "queued",
        "max": 2,
        "zones": ["europe-west4-b"],
        "ordinary_network": True,
    },
    "n2": {"machine_type": "n2-standard-8", "min": 0, "compact_placement": True, "zones": ["europe-west4-b"]},
    "tpu": {"machine_type": "ct6e-standard-4t", "tpu_topology": "4x4", "zones": ["europe-west4-a"]},
}
VARIABLES: dict[str, Any] = {
    "name": NAME,
    "project": "my-project",
    "location": "europe-west4",
    "node_pools": POOLS,
    "gpu_image": {"tag": "2.60.0-gpu"},
    "service_accounts": {"ray": {"namespace": "ray", "name": "ray", "bucket_access": "write"}},
    "ray_service_account": "ray",
}


def configure(target: Workspace, **changes: Any) -> None:
    (target.folder / "test.auto.tfvars.json").write_text(json.dumps(VARIABLES | changes))


def made(target: Workspace, kind: str) -> list[dict[str, Any]]:
    plugin = target.folder.parents[2] / "plugin"
    return [thing["values"] for thing in stand_in.made(plugin, kind.partition("_")[0]) if thing["type"] == kind]


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    target = workspace(tmp_path_factory.mktemp("gke"), "google", "modules/gke")
    configure(target)
    target.init()
    target.apply()
    return target


def test_provider_is_the_published_one() -> None:
    assert need_schema("google")["version"].startswith("8.")
    assert need_schema("aws")["version"].startswith("6.")


@pytest.fixture(scope="module")
def outputs(applied: Workspace) -> dict[str, Any]:
    return applied.outputs()


def idle(applied: Workspace, plan: Path) -> IdleCost:
    return IdleCost.of(json.loads(applied.run("show", "-json", str(plan)).stdout))


def test_second_plan_finds_nothing_to_do_and_says_what_runs_with_nobody_using_it(
    applied: Workspace, tmp_path: Path
) -> None:
    """And it warns of an endpoint that nobody reaches: Airflow is not in a network that did not exist before."""
    status, text = applied.plan("-out", str(tmp_path / "plan"))
    assert status == 0, text
    assert "Warning: Check block assertion failed" in text
    assert "dns_endpoint: the Kubernetes API has a private address only" in said(text)
    assert idle(applied, tmp_path / "plan").lines() == [
        "With nobody using it, this runs: control plane, NAT gateway, 1 \u00d7 n2-standard-8, 1 \u00d7 e2-standard-4, 0 GPUs."
    ]


def test_a_plan_with_machines_for_nobody_and_an_endpoint_that_is_reached(applied: Workspace, tmp_path: Path) -> None:
    pools = {"t4": {"machine_type": "n1-standard-8", "accelerator": {"type": "nvidia-tesla-t4", "count": 2}, "min": 1}}
    configure(applied, node_pools=pools, dns_endpoint=True)
    _, text = applied.plan("-refresh=false", "-out", str(tmp_path / "plan"))
    configure(applied)
    assert "Check block assertion failed" not in text
    line, warning = idle(applied, tmp_path / "plan").lines({"control plane": 0.1, "n1-standard-8": 0.4})
    assert "1 \u00d7 n1-standard-8, 2 GPUs; at least 0.50 an hour by your price table (without" in line
    assert "node_pools.t4 keeps 1 machine with accelerators" in warning


def test_cluster_is_private_and_encrypted(applied: Workspace) -> None:
    (cluster,) = made(applied, "google_container_cluster")
    private = cluster["private_cluster_config"][0]
    assert (private["enable_private_nodes"], private["enable_private_endpoint"]) == (True, True)
    assert cluster["master_authorized_networks_config"][0]["cidr_blocks"] == []
    assert cluster["database_encryption"][0]["state"] == "ENCRYPTED"
    assert cluster["workload_identity_config"][0]["workload_pool"] == "my-project.svc.id.goog"
    (bucket,) = made(applied, "google_storage_bucket")
    assert bucket["public_access_prevention"] == "enforced"
    assert bucket["encryption"][0]["default_kms_key_name"]


def test_pools_as_the_provider_got_them(applied: Workspace) -> None:
    pools = {pool["name"]: pool for pool in made(applied, "google_container_node_pool")}
    assert set(pools) == {*POOLS, "system"}
    config = {name: pool["node_config"][0] for name, pool in pools.items()}
    for name in ("l4", "t4", "h100"):
        assert [(taint["key"], taint["value"], taint["effect"]) for taint in config[name]["taint"]] == [
            ("nvidia.com/gpu", "present", "NO_SCHEDULE")
        ]
    for name in pools:
        assert config[name]["workload_metadata_config"][0]["mode"] == "GKE_METADATA"
        assert config[name]["labels"]["ray-pool"] == name
    assert config["l4"]["spot"] is True
    assert config["l4"]["guest_accelerator"][0]["type"] == "nvidia-l4"
    assert config["l4"]["guest_accelerator"][0]["gpu_sharing_config"][0]["max_shared_clients_per_gpu"] == 2
    assert config["l4"]["guest_accelerator"][0]["gpu_driver_installation_config"][0]["gpu_driver_version"] == "LATEST"
    assert (config["t4"]["flex_start"], config["t4"]["max_run_duration"]) == (True, "86400s")
    assert config["t4"]["reservation_affinity"][0]["consume_reservation_type"] == "NO_RESERVATION"
    assert pools["h100"]["queued_provisioning"][0]["enabled"] is True
    assert config["h100"]["labels"]["cloud.google.com/gke-queued"] == "true"
    assert pools["n2"]["placement_policy"][0]["type"] == "COMPACT"
    assert pools["tpu"]["placement_policy"][0]["tpu_topology"] == "4x4"
    assert pools["tpu"]["autoscaling"][0]["total_max_node_count"] == 4
    assert config["tpu"]["guest_accelerator"] == []


def test_outputs_have_the_same_names_and_shape_as_eks(outputs: dict[str, Any]) -> None:
    import hcl2

    from tests.support.terraform import MODULES

    names = {}
    for module in ("eks", "gke"):
        with (MODULES / module / "outputs.tf").open() as file:
            names[module] = {name.strip('"') for output in hcl2.load(file)["output"] for name in output}
    # What one of the clouds alone has: the address that needs no way there; what GKE brings by itself.
    only_eks = {
        "cluster_security_group_id",
        "efa_device_plugin_required",
        "kubernetes_manifests",
        "kubernetes_support_ends",
    }
    assert names["eks"] - only_eks == names["gke"] - {"dns_endpoint"}
    # An output that is null is none.
    assert set(outputs) == names["gke"] - {"dns_endpoint"}
    for pool in outputs["node_pools"].values():
        assert set(pool) == {"node_selector", "tolerations", "accelerator", "allocatable", "min", "max", "num_of_hosts"}
    assert outputs["node_pools"]["l4"]["accelerator"] == {"resource": "nvidia.com/gpu", "type": "nvidia-l4", "count": 8}
    assert outputs["node_pools"]["tpu"]["num_of_hosts"] == 4
    assert outputs["node_pools"]["tpu"]["node_selector"]["cloud.google.com/gke-tpu-topology"] == "4x4"


@pytest.mark.parametrize("version", ["helm3", "helm4"])
def test_values_go_to_the_chart_as_they_are(outputs: dict[str, Any], tmp_path: Path, version: str) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps(outputs["ray_helm_values"]))
    done = subprocess.run(
        [str(tool(version)), "template", "ray", str(CHART), "--namespace", "ray", "-f", str(values)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (cluster,) = [
        document for document in yaml.safe_load_all(done.stdout) if document and document["kind"] == "RayCluster"
    ]
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    assert set(groups) == set(POOLS)
    assert groups["tpu"]["numOfHosts"] == 4
    pod = groups["tpu"]["template"]["spec"]
    assert int(pod["containers"][0]["resources"]["limits"]["google.com/tpu"]) == 4
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
    images = {name: group["template"]["spec"]["containers"][0]["image"] for name, group in groups.items()}
    assert (images["l4"], images["cpu"]) == ("rayproject/ray:2.60.0-gpu", "rayproject/ray:2.60.0")


def test_no_token_in_state(applied: Workspace) -> None:
    state = applied.state()
    assert not [resource["type"] for resource in state["resources"] if resource["type"] == "google_client_config"]
    assert "ya29." not in json.dumps(state)
    assert state["outputs"]["cluster_ca_certificate"]["sensitive"] is True


def test_a_pool_is_added_and_another_resized(applied: Workspace, tmp_path: Path) -> None:
    """In one apply with the protection, which the rows after it need."""
    pools = {
        **POOLS,
        "cpu": {"machine_type": "n2-standard-8", "max": 8},
        "a100": {"machine_type": "a2-ultragpu-8g", "capacity": "reservation", "reservation_name": "ours"},
    }
    configure(applied, node_pools=pools, deletion_protection=True)
    status, text = applied.plan("-refresh=false", "-out", str(tmp_path / "plan"))
    assert status == 2
    # The pool; the other one, the cluster and its guard.
    assert "1 to add, 3 to change, 0 to destroy" in text
    applied.apply(str(tmp_path / "plan"))
    found = {pool["name"]: pool for pool in made(applied, "google_container_node_pool")}
    assert found["cpu"]["autoscaling"][0]["total_max_node_count"] == 8
    assert found["a100"]["node_config"][0]["reservation_affinity"][0]["values"] == ["ours"]


def test_protection_refuses_to_destroy_and_keeps_everything(applied: Workspace) -> None:
    done = applied.run("destroy", "-input=false", "-no-color", "-auto-approve", check=False)
    assert done.returncode == 1
    assert "deletion_protection is on" in done.stdout + done.stderr
    assert {pool["name"] for pool in made(applied, "google_container_node_pool")} == {*POOLS, "a100", "system"}
    configure(applied)
    applied.apply()


#: Pools that Google Cloud would refuse, or whose pods would never be scheduled, and what the plan says of each.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "type": (
        {"machine_type": "g2-standard-48", "accelerator": {"type": "nvidia-h100-80gb"}},
        "pools.type.accelerator.type: g2-standard-48 has nvidia-l4.",
    ),
    "count": (
        {"machine_type": "g2-standard-48", "accelerator": {"count": 8}},
        "pools.count.accelerator.count: g2-standard-48 has 4.",
    ),
    "none": (
        {"machine_type": "e2-standard-8", "accelerator": {"type": "nvidia-l4", "count": 1}},
        "pools.none.accelerator: e2-standard-8 can't have one",
    ),
    "sharing": (
        {"machine_type": "n2-standard-8", "gpu_sharing": {"strategy": "MPS", "clients": 2}},
        "pools.sharing.gpu_sharing: there is no GPU to share.",
    ),
    "slices": (
        {"machine_type": "ct6e-standard-4t", "tpu_topology": "4x4", "max": 2, "zones": ["europe-west4-a"]},
        "pools.slices.max: a pool with a slice of several hosts (4x4) holds one slice",
    ),
    "zones": (
        {"machine_type": "ct6e-standard-4t", "tpu_topology": "4x4"},
        'pools.zones.zones: a slice of several hosts (4x4) needs exactly one zone, such as ["europe-west4-a"].',
    ),
    "tpuflex": (
        {"machine_type": "ct6e-standard-8t", "capacity": "flex_start", "zones": ["europe-west4-a", "europe-west4-b"]},
        "pools.tpuflex.zones: TPUs with flex_start need exactly one zone",
    ),
    "offered": (
        {"machine_type": "a3-highgpu-8g"},
        (
            "pools.offered.machine_type: a3-highgpu-8g is not offered in europe-west4-a."
            ' Set pools.offered.zones = ["europe-west4-b","europe-west4-c"].'
        ),
    ),
    "nowhere": (
        {"machine_type": "z9-giga-1", "zones": ["europe-west4-a"]},
        "pools.nowhere.machine_type: z9-giga-1 is not offered in europe-west4-a (asked of google_compute_machine_types).",
    ),
    "elsewhere": (
        {"machine_type": "g2-standard-8", "zones": ["europe-west4", "europe-west3-a"]},
        "pools.elsewhere.zones: europe-west4, europe-west3-a: no zone of europe-west4; zones are such as europe-west4-b.",
    ),
    "rdma": (
        {"machine_type": "a3-highgpu-8g", "max": 2, "zones": ["europe-west4-b"]},
        "pools.rdma.max: a3-highgpu-8g talks to others of its kind over networks for GPUDirect or RDMA",
    ),
    "grace": ({"machine_type": "a4x-highgpu-4g"}, "pools.grace.machine_type: a4x-highgpu-4g needs RDMA networks"),
    "ironwood": (
        {"machine_type": "tpu7x-standard-4t", "tpu_topology": "2x2x2", "zones": ["europe-west4-b"]},
        "pools.ironwood.tpu_topology: slices of several TPU7x hosts need a workload policy",
    ),
    "queued": (
        {
            "machine_type": "g2-standard-8",
            "capacity": "queued",
            "compact_placement": True,
            "zones": ["europe-west4-b"],
        },
        "pools.queued.compact_placement: GKE has none for queued machines",
    ),
    "flex": (
        {
            "machine_type": "g2-standard-8",
            "capacity": "flex_start",
            "compact_placement": True,
            "zones": ["europe-west4-b"],
        },
        "pools.flex.compact_placement: with flex_start GKE has it for a3-ultragpu, a4 and h4d machines and TPUs, not",
    ),
}


def said(text: str) -> str:
    """Give what Terraform prints in a frame as one line."""
    return " ".join(text.replace("\u2502", " ").split())


def test_what_google_cloud_does_not_have_is_refused_in_the_plan_by_name(applied: Workspace) -> None:
    accounts = {**VARIABLES["service_accounts"], "a": {"namespace": "ray", "name": "a"}}
    short = (
        "service_accounts.a: ray-a is too short for an account's id, which has 6 to 30 characters. Take a longer key."
    )
    pools = {**POOLS, **{name: pool for name, (pool, _) in REFUSED.items()}}
    configure(applied, name="ray", service_accounts=accounts, node_pools=pools)
    done = applied.run("plan", "-input=false", "-no-color", "-refresh=false", check=False)
    configure(applied)
    assert done.returncode == 1
    text = said(done.stderr)
    assert [message for message in [*(message for _, message in REFUSED.values()), short] if message not in text] == []
    assert text.count("Resource precondition failed") == len(REFUSED) + 1


def test_what_can_not_be_meant_is_refused_by_name(applied: Workspace) -> None:
    configure(
        applied,
        zones=["europe-west4"],
        endpoint_public_access_cidrs=["203.0.113.0/24"],
        service_accounts={"nodes": {"namespace": "ray", "name": "ray"}},
        ray_service_account=None,
    )
    done = applied.run("plan", "-input=false", "-no-color", "-refresh=false", check=False)
    configure(applied)
    assert done.returncode == 1
    for message in (
        "zones: europe-west4: each must be a zone of europe-west4, such as europe-west4-b.",
        "endpoint_public_access must be true for endpoint_public_access_cidrs: without a public address nobody",
        "service_accounts: the key nodes is taken: the nodes' own account has that id.",
    ):
        assert message in said(done.stderr)


def test_destroy_leaves_nothing_also_of_what_a_plan_would_refuse(applied: Workspace) -> None:
    """A cluster that an earlier release made, before it knew better: it costs money until it is gone."""
    configure(
        applied,
        node_pools={
            "h100": {"machine_type": "a3-highgpu-8g", "max": 2, "zones": ["europe-west4-a", "europe-west3-a"]},
            "cpu": {
                "machine_type": "n2-standard-8",
                "min": 3,
                "max": 2.5,
                "disk_gib": 1,
                "capacity": "later",
                "labels": {"my label": "x", "foo.k8s.io/x": "y", "ray-pool": "z"},
                "taints": [{"key": "team", "value": "a"}, {"key": "team", "value": "b"}, {"key": "a b"}],
            },
        },
        zones=["europe-west3-a"],
        endpoint_public_access_cidrs=["203.0.113.0/24"],
    )
    assert applied.run("plan", "-input=false", "-refresh=false", check=False).returncode == 1
    applied.destroy()
    assert applied.state()["resources"] == []
    assert stand_in.made(applied.folder.parents[2] / "plugin", "google") == []
    print("\n".join(f"{name}: {seconds:.1f} s" for name, seconds in applied.times))


#: One resource for each, and what Terraform says of it.
WRONG = {
    'name = "x"\n  workload_identity = true': "Unsupported argument",
    'name = "x"\n  initial_node_count = "many"': "Incorrect attribute value type",
    'name = "x"\n  no_such_block {}': "Unsupported block type",
    "": "Missing required argument",
}


def test_the_stand_in_refuses_what_the_provider_would(tmp_path: Path) -> None:
    target = workspace(tmp_path, "google", "modules/gke/modules/network")
    for path in target.folder.glob("*.tf"):
        if path.name != "versions.tf":
            path.unlink()
    for number, body in enumerate(WRONG):
        text = f'resource "google_container_cluster" "x{number}" {{\n  {body}\n}}\n'
        (target.folder / f"wrong_{number}.tf").write_text(text)
    target.init()
    verdict = target.validate()
    assert verdict["valid"] is False
    found = {each["range"]["filename"]: each["summary"] for each in verdict["diagnostics"]}
    assert found == {f"wrong_{number}.tf": complaint for number, complaint in enumerate(WRONG.values())}


#: In `make test`, test_operators_eks.py goes the whole way on this schema, by the operators and with fewer kinds of pools.
@pytest.mark.slow
def test_eks_on_aws_provider_6(tmp_path: Path) -> None:
    """The whole way on the schema of the AWS provider's version 6."""
    target = workspace(tmp_path, "aws", "modules/eks")
    pools = {
        "cpu": {"machine_type": "m6i.2xlarge", "max": 4},
        "h100": {
            "machine_type": "p5.48xlarge",
            "capacity": "capacity_block",
            "reservation_id": "cr-0123456789abcdef0",
            "zones": ["us-east-1a"],
            "efa": True,
            "placement_group": True,
        },
        "trainium": {"machine_type": "trn1.2xlarge", "max": 2},
    }
    variables = {
        "name": NAME,
        "node_pools": pools,
        "identity_mode": "irsa",
        "service_accounts": VARIABLES["service_accounts"],
        "ray_service_account": "ray",
    }
    (target.folder / "test.auto.tfvars.json").write_text(json.dumps(variables))
    target.init()
    target.apply()
    status, text = target.plan()
    assert status == 0, text
    outputs = target.outputs()
    assert outputs["node_pools"]["h100"]["accelerator"] == {"resource": "nvidia.com/gpu", "type": "H100", "count": 8}
    assert outputs["node_pools"]["trainium"]["accelerator"]["resource"] == "aws.amazon.com/neuroncore"
    assert outputs["service_accounts"]["ray"]["annotations"]["eks.amazonaws.com/role-arn"]
    groups = {group["node_group_name"]: group for group in made(target, "aws_eks_node_group")}
    assert groups["h100"]["capacity_type"] == "CAPACITY_BLOCK"
    templates = [template for template in made(target, "aws_launch_template") if "-h100-" in template["name_prefix"]]
    assert templates[0]["instance_market_options"][0]["market_type"] == "capacity-block"
    assert len(templates[0]["network_interfaces"]) == 32
    target.destroy("-refresh=false")  # the plan has just read it all
    assert stand_in.made(tmp_path / "plugin", "aws") == []
