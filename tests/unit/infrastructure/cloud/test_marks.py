"""What stands on infrastructure, in words that both clouds take."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from ray_provider.infrastructure.cloud.marks import Marks, Tags, decode, encode, owner_tags, run_tags, state_tags, word
from ray_provider.infrastructure.terraform.state import StateResource, StateView

#: Google's rule for labels, which is narrower than AWS's for tags.
KEY, VALUE = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}")
OWNER = {"airflow": "https://airflow.example.com:8080", "dag": "Team.Train/März", "task": "setup__infra"}
S3 = {
    "type": "s3",
    "bucket": "My.States",
    "key": "teams/ray/" + "a_long_name/" * 12 + "terraform.tfstate",
    "region": "eu-west-1",
    "use_lockfile": True,
    "assume_role": {"role_arn": "arn:aws:iam::123456789012:role/States"},
}
ENDS = datetime(2026, 11, 29, 9, 17, tzinfo=UTC)


TEXTS = [
    "",
    "a",
    "ray-1",
    "Team.Train/M\u00e4rz",
    "_",
    "__",
    "_2f",
    "a__b",
    "x" * 63,
    "x" * 64,
    "\U0001f680" * 20,
    "A" * 40,
]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back_and_a_word_fits(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9_-]*", encode(text))
    assert decode(encode(text)) == text
    assert VALUE.fullmatch(word(text))


def test_words_tell_texts_apart() -> None:
    assert len({word(text) for text in TEXTS} | {word("x" * 65)}) == len(TEXTS) + 1


@pytest.mark.parametrize(
    "backend", [S3, {"type": "gcs", "bucket": "b", "prefix": "p"}, {"type": "local", "path": "/s"}]
)
def test_a_cluster_says_whose_it_is_until_when_and_where_its_state_lies(backend: dict[str, object]) -> None:
    tags = {
        **owner_tags(OWNER, "ray"),
        **state_tags("eks", backend, "blue"),
        **run_tags("manual__2026-11-28T21:17:27+00:00", ENDS, "1.0.0"),
    }
    assert all(KEY.fullmatch(key) and VALUE.fullmatch(value) for key, value in tags.items())
    marks = Marks.read({**tags, "team": "x"})
    assert marks is not None
    assert marks.backend == backend
    assert (marks.module, marks.workspace, marks.expires, marks.version) == ("eks", "blue", ENDS, "1.0.0")
    assert marks.is_of("dag", OWNER["dag"])
    assert not marks.is_of("dag", "team.train")
    assert marks.said("airflow") == OWNER["airflow"]
    assert marks.is_of("run", "manual__2026-11-28T21:17:27+00:00")


def test_what_only_a_task_may_say_is_not_written() -> None:
    tags = state_tags("eks", {**S3, "endpoints": {"s3": "http://evil"}, "secret_key": "hidden"}, None)
    assert not any("evil" in decode(value) or "hidden" in value for value in tags.values())


def test_others_clusters_and_ends_written_by_hand() -> None:
    assert Marks.read({"Name": "x"}) is None
    tags = {**owner_tags(OWNER, "ray"), **state_tags("eks", S3, None), "airflow-ray-expires": "tomorrow"}
    marks = Marks.read(tags)
    assert marks is not None
    assert marks.expires is None


def test_who_made_it_stays_its_owner() -> None:
    mine = owner_tags(OWNER, "ray")
    state = StateView(
        resources=(
            StateResource("aws_vpc.this", "aws_vpc", values={"tags": {**mine, "team": "x"}}),
            StateResource(
                "aws_eks_cluster.this", "aws_eks_cluster", values={"tags": {**mine, "airflow-ray-run": "r1"}}
            ),
        )
    )
    tags = Tags.in_state(state)
    assert tags.everywhere == mine
    assert tags.cluster == {**mine, "airflow-ray-run": "r1"}
    given = {"name": "ray", "tags": {"team": "x"}}
    assert tags.variables(given, {"tags": 1, "cluster_tags": 1}) == {
        "name": "ray",
        "tags": {"team": "x", **mine},
        "cluster_tags": tags.cluster,
    }
    assert tags.variables(given, {"tags": 1}) == given
