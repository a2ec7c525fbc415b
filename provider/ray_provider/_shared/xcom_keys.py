"""Every XCom that tasks of this provider leave, besides what they return: DAGs and deferred tasks read them."""

from __future__ import annotations

#: Where the dashboard answers, as astro-provider-ray names it.
DASHBOARD = "dashboard"
#: What the task's button leads to, left right after the submit.
LINK = "ray_dashboard_link"
#: Where an application of Serve, or a RayService, answers.
URL = "ray_serve_url"
#: The summary of Terraform's plan: counts, and what was changed by name.
PLAN = "plan"

#: Which job is the task's own. Written before the submit, read when a trigger wants to stop something.
JOB = "ray_job"
#: How many bytes of the job's log have been passed on.
OFFSET = "ray_log_offset"
#: What a deferred task has made, for the case that its trigger fails or never begins: a cluster.
HANDLE = "ray_cluster"
#: The same of an application: what was written.
WRITTEN = "ray_serve_written"
#: The same of a RayService.
DEPLOYED = "ray_service_deployed"
