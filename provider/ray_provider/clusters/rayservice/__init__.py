"""RayServices: a Ray cluster that serves applications, deployed, updated, put back and deleted. No Airflow."""
