"""Infrastructure by Terraform: a runner, plans with guards, outputs, and the credentials of the clusters made.

Knows no Airflow. Use :class:`ray_provider.infrastructure.run.InfrastructureRun` for one run of a module, and
:class:`ray_provider.infrastructure.terraform.runner.TerraformRunner` for Terraform's single commands.
"""
