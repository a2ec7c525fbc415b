"""Infrastructure-as-code driven Airflow provider for Ray."""

__version__ = "1.0.0"
