"""What Airflow is told of a sensor that did not get what it waited for."""

from __future__ import annotations

from ray_provider._compat import AirflowSensorTimeout, AirflowSkipException, BaseSensorOperator
from ray_provider.airflow_errors import for_airflow
from ray_provider.exceptions import RayProviderError


def told(
    sensor: BaseSensorOperator, error: RayProviderError, *, final: bool = False, timed_out: bool = False
) -> Exception:
    """Give the exception to be raised, by the sensor's ``soft_fail`` and ``never_fail``.

    Airflow's own treatment knows only Airflow's exceptions, and its messages leave out why.

    :param sensor: whose settings count.
    :param error: what happened.
    :param final: no other try of the sensor can see anything else.
    :param timed_out: the sensor's ``timeout`` is over: Airflow does not retry that.
    """
    if getattr(sensor, "never_fail", False) or (sensor.soft_fail and (final or timed_out or not error.retryable)):
        sensor.log.warning("%s", error)
        return AirflowSkipException(f"Skipped instead of failed (soft_fail, never_fail): {error}")
    if timed_out:
        return AirflowSensorTimeout(str(error))
    return for_airflow(error)
