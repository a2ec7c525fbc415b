"""Buttons in Airflow's web interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ray_provider._compat import BaseOperatorLink
from ray_provider._shared import xcom_keys

if TYPE_CHECKING:
    from ray_provider.jobs.endpoint import RayEndpoint


def job_page(endpoint: RayEndpoint, submission_id: str) -> str:
    """Give the address of a job's page in Ray's dashboard. Holds no credentials.

    :param endpoint: of the dashboard: of it counts the URL for people.
    :param submission_id: of the job.
    """
    return f"{endpoint.display_url.rstrip('/')}/#/jobs/{quote(submission_id, safe='')}"


class RayDashboardLink(BaseOperatorLink):
    """Leads to the job's page in Ray's dashboard."""

    name = "Ray dashboard"

    @property
    def xcom_key(self) -> str:
        """Where the link lies. Airflow 3 reads it from there by itself."""
        return xcom_keys.LINK

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ARG002
        """Read the link.

        :param operator: the task's operator.
        :param ti_key: the task instance.
        :return: the address, or an empty string before the submit.
        """
        from airflow.providers.common.compat.sdk import XCom

        return XCom.get_value(key=self.xcom_key, ti_key=ti_key) or ""
