"""Ray clusters: made, found, reached and deleted. Knows no Airflow.

A cluster is handed on as a :class:`~ray_provider.clusters.handle.ClusterHandle`, whatever it runs on:

- ``local``: a Ray head on this machine (:mod:`ray_provider.clusters.local.cluster`);
- ``kubernetes``: a Helm release that KubeRay turns into pods.
"""
