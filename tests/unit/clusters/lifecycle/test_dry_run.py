"""What Kubernetes refuses of a dry run is the user's to correct; what it can't do now is not."""

from __future__ import annotations

import pytest

from ray_provider.clusters.kuberay.versions import KubeRay
from ray_provider.clusters.lifecycle.dry_run import check_objects
from ray_provider.exceptions import ConfigurationError, KubernetesAccessError, KubernetesError

OBJECT = {"kind": "Secret", "metadata": {"name": "s"}}


class Answers:
    """Kubernetes, as far as it is asked to try something: it always answers the same."""

    def __init__(self, status: int, message: str) -> None:
        kind = KubernetesAccessError if status == 403 else KubernetesError
        self.error = kind(message, status=status)
        self.asked: list[dict[str, str]] = []

    async def collection(self, one, namespace):
        return f"/api/v1/namespaces/{namespace}/secrets"

    async def create(self, path, one, **options):
        self.asked.append(options)
        raise self.error


@pytest.mark.parametrize(
    ("status", "message", "kind", "says"),
    [
        (
            400,
            'strict decoding error: unknown field "spec.x"',
            ConfigurationError,
            "does not know `spec.x` of the Secret s",
        ),
        (404, 'namespaces "n" not found', ConfigurationError, "'n'"),
        (
            422,
            "metadata.name: Invalid value.",
            ConfigurationError,
            "refuses the Secret s: metadata.name: Invalid value.",
        ),
        (403, "you may not", KubernetesAccessError, "you may not"),
        (500, "etcd is away", KubernetesError, "etcd is away"),
    ],
)
async def test_a_refusal_is_told_by_what_it_is(status, message, kind, says):
    kube = Answers(status, message)
    with pytest.raises(kind) as caught:
        await check_objects(kube, "n", [OBJECT], KubeRay((1, 6, 0)))
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert kube.asked == [{"dryRun": "All", "fieldValidation": "Strict", "fieldManager": "airflow-ray"}]


async def test_what_is_there_already_is_no_refusal():
    kube = Answers(409, "already exists")
    await check_objects(kube, "n", [OBJECT, OBJECT], KubeRay((1, 6, 0)))
    assert len(kube.asked) == 2
