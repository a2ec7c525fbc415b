"""However often a submit is repeated, and whatever gets lost: one job."""

from __future__ import annotations

import asyncio

import pytest

from ray_provider._shared.retry import RetryPolicy
from ray_provider.exceptions import ConfigurationError, JobConflictError, RayApiError, RayConnectionError
from ray_provider.jobs.client import RayJobsClient
from ray_provider.jobs.endpoint import RayEndpoint
from ray_provider.jobs.models import JobSpec
from ray_provider.jobs.submit.identity import JobOwner, submission_id_for
from ray_provider.jobs.submit.once import submit_once
from tests.support.ray_head import free_ports

OWNER = JobOwner("dag", "run", "task", try_number=1, provider_version="1.0.0")


def spec(owner=OWNER, **values):
    return JobSpec(
        **{
            "entrypoint": "python x.py",
            "submission_id": submission_id_for(OWNER),
            "metadata": owner.to_metadata(),
            **values,
        }
    )


async def test_a_repeated_submit_adopts_the_job(api, client):
    first = await submit_once(client, spec())
    assert (first.submission_id, first.adopted) == (submission_id_for(OWNER), False)
    second = await submit_once(client, spec())
    assert (second.submission_id, second.adopted) == (submission_id_for(OWNER), True)
    assert second.details.status == "PENDING"
    assert len(api.jobs) == 1


async def test_a_ray_whose_agent_never_comes_says_where_to_look(api):
    api.no_agent = 1000
    policy = RetryPolicy(deadline_seconds=0.3, first_delay=0.05, max_delay=0.1)
    async with RayJobsClient(api.endpoint(), retry=policy) as client:
        with pytest.raises(RayApiError, match="No available agent") as told:
            await submit_once(client, spec())
    assert "dashboard_agent.log" in str(told.value)
    assert told.value.retryable


async def test_another_try_of_the_same_attempt_adopts_too(api, client):
    await submit_once(client, spec())
    later = JobOwner("dag", "run", "task", try_number=2, provider_version="1.0.1")
    assert (await submit_once(client, spec(later))).adopted


async def test_an_ended_job_is_given_back_as_it_is(api, client):
    await submit_once(client, spec())
    api.jobs[submission_id_for(OWNER)].end("FAILED", message="no")
    again = await submit_once(client, spec())
    assert again.adopted
    assert again.details.status == "FAILED"
    assert len(api.jobs) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"entrypoint": "python y.py"},
        {"metadata": JobOwner("dag", "run", "other task").to_metadata()},
        {"metadata": {}},
        {"metadata": JobOwner("dag", "run", "task", deployment="staging").to_metadata()},
    ],
)
async def test_somebody_elses_job_is_a_conflict(api, client, other):
    await submit_once(client, spec(**other))
    with pytest.raises(JobConflictError, match="taken by another job") as raised:
        await submit_once(client, spec())
    assert not raised.value.retryable
    assert len(api.jobs) == 1


async def test_without_an_owner_all_metadata_counts(api, client):
    await submit_once(client, JobSpec("true", "mine", metadata={"a": "1"}))
    assert (await submit_once(client, JobSpec("true", "mine", metadata={"a": "1"}))).adopted
    with pytest.raises(JobConflictError):
        await submit_once(client, JobSpec("true", "mine", metadata={"a": "2"}))


async def test_an_id_whose_job_was_deleted(api, client):
    api.used_ids.add(submission_id_for(OWNER))
    with pytest.raises(JobConflictError, match="deleted"):
        await submit_once(client, spec())


@pytest.mark.parametrize("policy", [RetryPolicy.none(), RetryPolicy(3, 0.02)])
async def test_a_lost_answer_is_made_up_for(api, client, policy):
    api.lose_answers = 1
    result = await submit_once(client, spec(), retry=policy)
    assert result.submission_id == submission_id_for(OWNER)
    assert not result.adopted
    assert len(api.jobs) == 1


async def test_a_time_out_is_made_up_for(api):
    async with RayJobsClient(api.endpoint(), timeout=30, retry=RetryPolicy.none()) as client:
        api.delay = 0.5

        async def slow(method, path, **options):
            return await original(method, path, **{**options, "timeout": 0.2 if method == "POST" else 5})

        original = client.transport.request
        client.transport.request = slow
        # The handler of the double goes on although the client went away, as Ray's does.
        api.add(submission_id_for(OWNER), "python x.py", request={"metadata": OWNER.to_metadata()})
        result = await submit_once(client, spec())
    assert result.details is not None
    assert not result.adopted


async def test_a_submit_that_never_came_through_says_why(api, client, monkeypatch):
    monkeypatch.setattr("ray_provider.jobs.submit.once._LOOK_SECONDS", 0.2)
    api.unavailable = True
    with pytest.raises(RayApiError, match="503"):
        await submit_once(client, spec(), retry=RetryPolicy(0.2, 0.05))
    assert api.jobs == {}
    [port] = free_ports(1)
    async with RayJobsClient(RayEndpoint(f"http://127.0.0.1:{port}")) as nobody:
        with pytest.raises(RayConnectionError):
            await submit_once(nobody, spec(), retry=RetryPolicy(0.2, 0.05))


async def test_503_for_a_while(api, client):
    api.unavailable = True
    asyncio.get_running_loop().call_later(0.5, setattr, api, "unavailable", False)
    assert not (await submit_once(client, spec())).adopted


async def test_many_at_once_make_one_job(api, client):
    results = await asyncio.gather(*(submit_once(client, spec()) for _ in range(20)))
    assert len(api.jobs) == 1
    assert sum(not result.adopted for result in results) == 1


async def test_bad_input_sends_nothing(api, client):
    for bad in (spec(entrypoint=""), spec(metadata={"a": 1}), spec(submission_id=None)):
        with pytest.raises(ConfigurationError):
            await submit_once(client, bad)
    assert api.requests == []
