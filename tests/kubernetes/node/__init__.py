"""A real one-node Kubernetes with KubeRay and Ray, from ordinary packages, in namespaces of its own.

``python -m tests.kubernetes.node build`` makes its parts into a cache, ``up`` starts a node and ``down`` ends it. Tests
use it through :mod:`tests.support.kubernetes`. README.md beside this file says what is in it and what it cannot do.
"""
