"""What is done for a task that waited in the triggerer, and whose trigger is gone."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace

import pytest

from ray_provider.exceptions import ServeError
from ray_provider.operators import triggerer


@pytest.mark.parametrize(
    ("next_method", "next_kwargs", "why"),
    [
        ("execute_complete", {"event": {"error": "boom"}}, None),
        ("__fail__", {"error": "Trigger timeout"}, "Trigger timeout"),
        ("__fail__", None, "the trigger failed"),
    ],
)
def test_a_trigger_that_fired_is_not_gone(next_method, next_kwargs, why):
    assert triggerer.why_gone(next_method, next_kwargs) == why


@pytest.fixture
def operator():
    return SimpleNamespace(log=logging.getLogger("task"))


def take_back(operator, context, how):
    triggerer.take_back(operator, context, "boom", what="application 'a'", key="made", how=how)


def test_what_the_task_left_is_taken_back_and_told(operator, context, ti, caplog):
    caplog.set_level("INFO")
    ti.xcom_push(key="made", value={"name": "a"})
    take_back(operator, context, lambda left: f"{left['name']} is back")
    assert "Nobody watches application 'a' any more (boom): the deploy is taken back." in caplog.text
    assert "a is back" in caplog.text


def test_a_task_that_left_nothing_has_nothing_to_take_back(operator, context, caplog):
    take_back(operator, context, lambda _: pytest.fail("there is nothing"))
    assert caplog.text == ""


def test_a_deploy_that_can_not_be_taken_back_leaves_airflows_own_error(operator, context, ti, caplog):
    def refuse(_):
        raise ServeError("Serve does not answer.")

    ti.xcom_push(key="made", value={"name": "a"})
    take_back(operator, context, refuse)
    assert "The deploy of application 'a' could not be taken back." in caplog.text
    assert "Serve does not answer." in caplog.text


def test_airflow_gives_a_trigger_up_after_it_would_have_ended_itself():
    assert 160 < triggerer.time_left(time.time() + 100, 63).total_seconds() <= 163
    assert triggerer.time_left(time.time() - 100, 63).total_seconds() == 63
