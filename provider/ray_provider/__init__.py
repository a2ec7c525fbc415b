"""Infrastructure-as-code driven Airflow provider for Ray."""

from __future__ import annotations

from typing import Any

from ray_provider._version import __version__ as __version__


def get_provider_info() -> dict[str, Any]:
    """Give what Airflow reads of the provider.

    :return: the metadata of :mod:`ray_provider.provider_info`.
    """
    from ray_provider import provider_info

    return provider_info.get_provider_info()
