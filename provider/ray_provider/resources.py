"""Where the chart, the profiles, the Terraform modules and the examples lie: inside the wheel, or in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def bundled(*parts: str) -> Path:
    """Give the path of a bundled file or folder, e.g. ``bundled("helm", "ray-cluster")``.

    :param parts: of the path, from the root of what the provider comes with.
    :raises FileNotFoundError: the installation is incomplete.
    """
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"{'/'.join(parts)} is not in this installation of airflow-ray")
