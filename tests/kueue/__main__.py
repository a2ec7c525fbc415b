"""``python -m tests.kueue``: build Kueue, where it is missing."""

from __future__ import annotations

import sys

from tests.kubernetes.node import parts
from tests.support import kueue

if __name__ == "__main__":
    try:
        kueue.build()
    except parts.BuildError as failure:
        sys.exit(str(failure))
