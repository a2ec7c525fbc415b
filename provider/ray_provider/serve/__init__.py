"""Applications of Ray Serve on a cluster that runs, by Serve's REST API. No Airflow, no import of ray."""
