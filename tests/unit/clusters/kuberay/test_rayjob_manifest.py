"""Ready RayJob manifests: carried through as they are, or refused by the name of what can't be."""

from __future__ import annotations

import shlex
import subprocess

import pytest
import yaml

from ray_provider.clusters.kuberay.rayjob import LABEL, RayJobOptions, RayJobState, Selector, make_selecting
from ray_provider.clusters.kuberay.rayjob_manifest import read_ray_job
from ray_provider.clusters.lifecycle.spec import ClusterRequest
from ray_provider.exceptions import ConfigurationError

HEAD = {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "ray-head", "image": "team/ray:2.60.0"}]}}}
CLUSTER = {"rayVersion": "2.60.0", "headGroupSpec": HEAD}


def job(meta=None, *, cluster=None, **spec):
    """Give a RayJob of which only what a test is about is said."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "train", **(meta or {})},
        "spec": {"entrypoint": "python train.py", "rayClusterSpec": {**CLUSTER, **(cluster or {})}, **spec},
    }


def refused(given):
    with pytest.raises(ConfigurationError) as caught:
        read_ray_job(given)
    return caught.value


# -- carried -----------------------------------------------------------------------------------------------------------


def test_the_jobs_part_is_read_for_the_task():
    found = read_ray_job(
        job(
            {"namespace": "ray", "labels": {"team": "a"}},
            entrypoint="python train.py --day 1\n",
            runtimeEnvYAML="pip: [requests==2.26.0]\nenv_vars:\n  counter_name: test\n",
            metadata={"day": 1},
            entrypointNumCpus=2,
            entrypointNumGpus=0.5,
            entrypointResources='{"Custom_1": 1, "Custom_2": 5.5}',
        )
    )
    assert (found.name, found.namespace) == ("train", "ray")
    assert found.entrypoint.strip() == "python train.py --day 1"
    assert found.runtime_env == {"pip": ["requests==2.26.0"], "env_vars": {"counter_name": "test"}}
    assert found.metadata == {"day": "1"}
    assert (found.num_cpus, found.num_gpus) == (2, 0.5)
    assert found.resources == {"Custom_1": 1.0, "Custom_2": 5.5}
    assert not found.is_submitted_by_kuberay
    assert found.own == {}, "what the task says itself is not said twice"


def test_what_is_said_of_the_clusters_life_is_carried():
    spec = {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 90, "activeDeadlineSeconds": 3600}
    spec |= {"preRunningDeadlineSeconds": 300, "backoffLimit": 0, "suspend": False, "managedBy": "x/y"}
    own = read_ray_job(job(**spec)).own
    assert {key: own[key] for key in spec} == spec


def test_the_cluster_is_that_of_a_manifest_of_its_own():
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"a": "b"}}
    labels = {"ray.io/scheduler-name": "volcano", "volcano.sh/queue-name": "team"}
    given = job({"labels": labels, "annotations": {"n": "m"}}, cluster={"enableInTreeAutoscaling": True})
    found = read_ray_job({"kind": "List", "items": [given, config]})
    assert found.cluster.name == "train"
    assert found.cluster.cluster["metadata"]["labels"] == labels
    assert found.cluster.cluster["metadata"]["annotations"] == {"n": "m"}
    assert found.cluster.cluster["spec"] == {**CLUSTER, "enableInTreeAutoscaling": True}
    assert list(found.cluster.others) == [config]
    spec = ClusterRequest(owner={"dag_id": "d"}, ray_cluster_yaml=found.cluster).spec()
    assert (spec.name, spec.manifest) == ("train", found.cluster)


def test_text_with_several_documents_is_read(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("# a comment\n---\n" + yaml.safe_dump(job(entrypoint="python {{ name }}.py")))
    found = read_ray_job(str(path), render=lambda text: text.replace("{{ name }}", "train"))
    assert found.entrypoint == "python train.py"
    assert found.source == f"ray_job_yaml ({path})"


def test_a_name_that_is_left_to_kubernetes_is_left_to_the_run():
    """As in KubeRay's sample for Kueue: a RayJob that may be made any number of times."""
    given = job(entrypoint="python x.py")
    given["metadata"] = {"generateName": "train-", "labels": {"a": "b"}}
    found = read_ray_job(given)
    assert found.name == ""
    assert found.cluster.cluster["metadata"]["labels"] == {"a": "b"}


def test_the_users_own_manifest_is_not_changed():
    given = job(submissionMode="K8sJobMode", entrypoint="a; b")
    before = yaml.safe_dump(given)
    read_ray_job(given)
    assert yaml.safe_dump(given) == before


# -- who submits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["HTTPMode", "SidecarMode", "K8sJobMode"])
def test_kuberay_submits_only_where_the_manifest_says_so_by_name(mode):
    told = {
        "entrypoint": "python train.py",
        "runtimeEnvYAML": "pip: [a]",
        "metadata": {"a": "b"},
        "entrypointNumCpus": 1,
        "entrypointNumGpus": 2,
        "entrypointResources": '{"a": 1}',
    }
    found = read_ray_job(job(submissionMode=mode, jobId="theirs", **told))
    assert found.is_submitted_by_kuberay
    assert found.own == {"submissionMode": mode, **told}
    assert found.entrypoint == "python train.py"


@pytest.mark.parametrize("given", [{}, {"submissionMode": "InteractiveMode"}, {"submissionMode": ""}])
def test_otherwise_the_task_submits(given):
    """KubeRay's own default is another one: whoever does not say it gets a job that runs once."""
    found = read_ray_job(job(**given))
    assert not found.is_submitted_by_kuberay
    assert "entrypoint" not in found.own


def test_an_entrypoint_is_not_needed_where_the_task_or_a_submitter_of_ones_own_has_one():
    assert read_ray_job(job(submissionMode="InteractiveMode", entrypoint="", jobId="")).entrypoint == ""
    own = {"spec": {"containers": [{"name": "s", "image": "submitter", "args": ["--", "python", "x.py"]}]}}
    found = read_ray_job(job(entrypoint="", submissionMode="K8sJobMode", submitterPodTemplate=own))
    assert found.own["submitterPodTemplate"] == own
    assert "entrypoint" not in found.own


SHELL = [
    "echo a; echo b",
    "echo a && echo b",
    "echo a | tr a b",
    "echo $HOME",
    "echo `echo a`",
    "echo a\necho b",
    "python -c \"print('a b')\"",
    "python -c 'import sys; print(sys.argv)' x",
    "echo a > /dev/null",
    "printf '%s,' *",
    "printf '%s,' ~",
    "echo a # b",
    "echo 'it'\\''s'",
    "echo {a,b}",
]


@pytest.mark.parametrize("entrypoint", SHELL)
@pytest.mark.parametrize("mode", ["K8sJobMode", "SidecarMode"])
def test_a_submitters_shell_passes_the_whole_entrypoint_on(mode, entrypoint, tmp_path):
    """KubeRay pastes it behind ``ray job submit … --`` into a script: only the first command would run on Ray."""
    pasted = read_ray_job(job(submissionMode=mode, entrypoint=entrypoint)).own["entrypoint"]
    script = f'argv() {{ printf "%s\\0" "$@"; }}; argv {pasted.strip()} ;'
    words = subprocess.run(["bash", "-ce", script], capture_output=True, check=True, cwd=tmp_path).stdout
    # The client joins its arguments again, and Ray runs that by a shell.
    on_ray = shlex.join(words.decode().split("\0")[:-1])
    assert run(on_ray, tmp_path) == run(entrypoint, tmp_path)


def run(command, folder):
    (folder / "a.txt").write_text("x")
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=folder).stdout


@pytest.mark.parametrize("entrypoint", ["python train.py --day=1", "A=1 python train.py", "  python train.py\n"])
def test_a_plain_entrypoint_stays_as_it_is(entrypoint):
    assert read_ray_job(job(submissionMode="K8sJobMode", entrypoint=entrypoint)).own["entrypoint"] == entrypoint


SAID = {
    "runtimeEnvYAML": "env_vars:\n  PRICE: '{sign}(id)'\n",
    "metadata": {"note": "{sign}HOME"},
    "entrypointResources": '{{"{sign}x": 1}}',
}


@pytest.mark.parametrize("sign", ["$", "`"])
@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("mode", ["K8sJobMode", "SidecarMode", "HTTPMode", None])
def test_what_a_submitters_shell_would_fill_in_is_refused(mode, name, sign):
    """KubeRay puts these between double quotes in a script, where a shell reads $ and backticks all the same."""
    value = SAID[name]
    said = (
        {key: text.format(sign=sign) for key, text in value.items()}
        if isinstance(value, dict)
        else value.format(sign=sign)
    )
    given = job(**{name: said}, **({"submissionMode": mode} if mode else {}))
    if mode not in ("K8sJobMode", "SidecarMode"):
        assert read_ray_job(given)
        return
    error = refused(given)
    assert error.data["field"] == name
    assert f"holds a {sign}, and KubeRay pastes it" in error.message


def test_kuberay_itself_needs_no_quotes():
    assert read_ray_job(job(submissionMode="HTTPMode", entrypoint="a; b")).own["entrypoint"] == "a; b"
    assert read_ray_job(job(submissionMode="K8sJobMode", entrypoint="a; b")).entrypoint == "a; b", "for the task's log"


# -- refused -----------------------------------------------------------------------------------------------------------


def without(name, **spec):
    given = job(**spec)
    del given["spec"][name]
    return given


THERE = {"ray.io/cluster": "there"}


def on_one_that_is_there(meta=None, **spec):
    """As in KubeRay's sample for a cluster that is there: no cluster of its own, and its name by a label."""
    given = job(meta, **{"clusterSelector": THERE, **spec})
    del given["spec"]["rayClusterSpec"]
    return given


@pytest.mark.parametrize("mode", [None, "HTTPMode", "K8sJobMode"])
def test_a_job_on_a_cluster_that_is_there_is_carried(mode):
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}}
    spec = {
        "shutdownAfterJobFinishes": False,
        "activeDeadlineSeconds": 600,
        **({"submissionMode": mode} if mode else {}),
    }
    given = on_one_that_is_there({"labels": {"team": "a"}, "annotations": {"n": "m"}}, **spec)
    found = read_ray_job({"kind": "List", "items": [given, config]})
    assert found.cluster is None
    assert found.selector == Selector("there", {"team": "a"}, {"n": "m"}, (config,))
    assert found.entrypoint == "python train.py"
    made = make_selecting(
        found.selector, "train", {"owner": "me"}, RayJobOptions(job_id="j", attempt=2, max_tries=3, own=found.own)
    )
    assert made["metadata"]["labels"].items() >= {"team": "a", "owner": "me", LABEL: "train"}.items()
    assert made["metadata"]["annotations"] == {"n": "m", "airflow-ray/attempt": "2", "airflow-ray/max-tries": "3"}
    wanted = {
        "clusterSelector": THERE,
        "submissionMode": mode or "InteractiveMode",
        "jobId": "j",
        "activeDeadlineSeconds": 600,
    }
    assert made["spec"] == {**wanted, **({"entrypoint": "python train.py"} if mode else {})}
    assert RayJobState.of(made).selected == "there"


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        (job(clusterSelector=THERE), "rayClusterSpec", "KubeRay would leave that out"),
        (on_one_that_is_there(clusterSelector={"a": "b"}), "clusterSelector", "{ray.io/cluster: NAME}"),
        (on_one_that_is_there(clusterSelector={**THERE, "a": "b"}), "clusterSelector", "by its name"),
        (on_one_that_is_there(clusterSelector="there"), "clusterSelector", "by its name"),
        (on_one_that_is_there(shutdownAfterJobFinishes=True), "shutdownAfterJobFinishes", "never deletes a cluster"),
        (on_one_that_is_there(ttlSecondsAfterFinished=60), "ttlSecondsAfterFinished", "never deletes a cluster"),
        (on_one_that_is_there(submissionMode="SidecarMode"), "submissionMode", "gets no further container"),
        (on_one_that_is_there(suspend=True), "suspend", "KubeRay refuses that"),
        (on_one_that_is_there(backoffLimit=1), "backoffLimit", "Give the task retries"),
        (
            on_one_that_is_there({"labels": {"kueue.x-k8s.io/queue-name": "q"}}),
            "clusterSelector",
            "Kueue would suspend",
        ),
        (
            on_one_that_is_there(submissionMode="HTTPMode", entrypoint=None),
            "entrypoint",
            "says no spec.entrypoint",
        ),
        (without("rayClusterSpec"), "rayClusterSpec", "no spec.rayClusterSpec"),
        (job(rayClusterSpec="small"), "rayClusterSpec", "no spec.rayClusterSpec"),
        (job(submissionMode="KubernetesMode"), "submissionMode", "'KubernetesMode'"),
        (job(suspend=True), "suspend", "queue"),
        (job(deletionStrategy={"deletionRules": []}, deletionPolicy="x"), "deletionStrategy", "keep_on_failure"),
        (job(deletionStrategy={"deletionRules": [{"policy": "DeleteCluster"}]}), "deletionStrategy", "keep_on_failure"),
        (job(deletionPolicy="DeleteNone"), "deletionStrategy", "keep_on_failure"),
        (job(backoffLimit=2), "backoffLimit", "retries"),
        (job(backoffLimit="two"), "backoffLimit", "'two'"),
        (job(ttlSecondsAfterFinished="a while"), "ttlSecondsAfterFinished", "has to be a number"),
        (job(activeDeadlineSeconds=True), "activeDeadlineSeconds", "has to be a number"),
        (job(entrypointNumCpus="4"), "entrypointNumCpus", "'4'"),
        (job(entrypointNumGpus=[1]), "entrypointNumGpus", "has to be a number"),
        (job(ttlSecondsAfterFinished="${TTL}"), "spec.ttlSecondsAfterFinished", "is not filled in"),
        (
            job(cluster={"workerGroupSpecs": [{"groupName": "<group>"}]}),
            "spec.rayClusterSpec.workerGroupSpecs[0].groupName",
            "`ray_job_yaml` is not filled in",
        ),
        (job(runtimeEnvYAML="pip: ["), "runtimeEnvYAML", "no YAML"),
        (job(runtimeEnvYAML="- pip"), "runtimeEnvYAML", "no mapping"),
        (job(metadata="owner"), "metadata", "no mapping"),
        (job(entrypointResources="{'a': 1}"), "entrypointResources", "no JSON object"),
        (job(entrypointResources='{"a": "much"}'), "entrypointResources", "of numbers"),
        (job(entrypointResources="[1]"), "entrypointResources", "no JSON object"),
        (
            job(cluster={"authOptions": {"mode": "token", "enableK8sTokenAuth": True}}),
            "authOptions.enableK8sTokenAuth",
            "KubeRay refuses",
        ),
        (job(submissionMode="HTTPMode", entrypoint=" \n"), "entrypoint", "HTTPMode"),
        (
            job(submissionMode="SidecarMode", entrypoint=None, submitterPodTemplate={"a": 1}),
            "entrypoint",
            "SidecarMode",
        ),
        (job(submissionMode="K8sJobMode", entrypoint=None), "entrypoint", "K8sJobMode"),
        ({**job(), "spec": None}, "spec", "has no spec"),
        ({"kind": "List", "items": [job(), job()]}, "ray_job_yaml", "RayJob, RayJob"),
        ({**job(), "kind": "RayCluster"}, "ray_job_yaml", "holds: RayCluster"),
        ({"kind": "List", "items": [job(), {**job(), "kind": "RayCluster"}]}, "ray_job_yaml", "a RayCluster beside"),
        (
            {"kind": "List", "items": [on_one_that_is_there(), {**job(), "kind": "RayCluster"}]},
            "ray_job_yaml",
            "SetupRayCluster(ray_cluster_yaml=...)",
        ),
        ({"kind": "List", "items": []}, "ray_job_yaml", "holds: nothing"),
    ],
)
def test_what_can_not_be_carried_is_refused_by_its_name(given, field, said):
    error = refused(given)
    assert error.data["field"] == field
    assert said in str(error)
    assert "ray_job_yaml" in error.message or field.startswith("authOptions")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (job(cluster={"headGroupSpec": None}), "no spec.headGroupSpec"),
        ({**job(), "apiVersion": "batch/v1"}, "apiVersion ray.io/v1"),
        (job({"labels": "a"}), "metadata.labels of the RayCluster is a str"),
        ({**job(), "metadata": {}}, "the RayJob in it has no metadata.name"),
        ("kind: RayJob\nmetadata:\n  name: {{.Name}}\n", "line 3 (name) has {{.Name}}"),
        ({"kind": "List", "items": [job(), {**job({"namespace": "b"}), "kind": "ConfigMap"}]}, "names two namespaces"),
    ],
)
def test_what_is_wrong_with_the_cluster_is_said_of_the_manifest_that_was_given(given, said):
    error = refused(given)
    assert said in error.message
    assert "ray_job_yaml" in error.message
