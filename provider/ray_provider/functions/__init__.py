"""A Python call that travels: packed on the worker, run on the cluster, its result read back. No Airflow, no Ray.

* :mod:`ray_provider.functions.payload` packs a function and its arguments;
* :mod:`ray_provider.functions.runner` is what runs on the cluster (standard library only: its source is shipped);
* :mod:`ray_provider.functions.results` reads what it left behind.
"""
