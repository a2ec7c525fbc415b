"""A cluster that is to ask for a token is asked whether it does; and what a refusal of Kubernetes means."""

from __future__ import annotations

import json

import pytest

from ray_provider.clusters.kubernetes.client import refusal
from ray_provider.clusters.lifecycle.waiting import check_closed
from ray_provider.exceptions import ClusterFailedError
from tests.support.jobs_api import JobsApi


@pytest.mark.parametrize("token", ["secret", None])
async def test_a_ray_that_lets_strangers_in_is_no_closed_one(token):
    async with JobsApi(token=token) as api:
        if token:
            await check_closed(api.endpoint(), "ray/mine")
            return
        with pytest.raises(ClusterFailedError, match="answers without one") as caught:
            await check_closed(api.endpoint(), "ray/mine")
        assert "ray/mine" in str(caught.value)
        assert "authOptions.mode: disabled" in str(caught.value)


def test_a_namespace_that_is_ending_is_named_by_the_refusal_too():
    said = (
        'rayclusters.ray.io "mine" is forbidden: unable to create new content in namespace ray because it is being '
        "terminated"
    )
    error = refusal(403, json.dumps({"message": said, "reason": "Forbidden"}))
    assert "The namespace 'ray' is being deleted" in error.message
    assert error.retryable
