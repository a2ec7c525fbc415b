"""``python -m tests.apiserver``: build what the API server is made of, where it is missing."""

from __future__ import annotations

import sys

from tests.kubernetes.node import parts
from tests.support import control_plane

if __name__ == "__main__":
    try:
        control_plane.build(parts.kuberay_version())
    except parts.BuildError as failure:
        sys.exit(str(failure))
