"""KubeRay: its operator, RayCluster resources and manifests, readiness, and the way to a dashboard."""
