"""What a package's page shows and only a build knows: the repository's address, and a README whose links lead there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PACKAGE_PAGE = "https://pypi.org/project/airflow-ray/"
_RELATIVE = re.compile(r"(!?)\[([^\]]+)\]\((?!https?://|#|mailto:)([^)]+)\)")
_REMOTE = re.compile(r"(?:https://(?:[^@/]+@)?|(?:ssh://)?git@)(?P<host>[\w.-]+)[:/](?P<path>[\w./-]+?)(?:\.git)?/?")


class ReadmeAndUrls(MetadataHookInterface):
    """Sets ``urls`` and ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add both to the project's metadata."""
        root = Path(self.root)
        home = repository(root)
        metadata["urls"] = urls(home)
        text = absolute(root.joinpath("README.md").read_text(encoding="utf-8"), home)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def repository(root: Path) -> str | None:
    """Give the repository's address: as the environment says it, CI, or git; ``None`` if nothing does.

    :param root: the project's folder.
    """
    told = os.environ.get("AIRFLOW_RAY_REPOSITORY")
    if told:
        return told.rstrip("/")
    if os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{os.environ['GITHUB_REPOSITORY']}"
    try:
        git = subprocess.run(
            ["git", "remote", "get-url", "origin"], cwd=root, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    match = _REMOTE.fullmatch(git.stdout.strip())
    return f"https://{match['host']}/{match['path']}" if match else None


def urls(home: str | None) -> dict[str, str]:
    """Give the links at the side of the package's page.

    :param home: the repository's address.
    """
    if home is None:
        return {"Homepage": PACKAGE_PAGE}
    return {
        "Homepage": home,
        "Documentation": f"{home}/tree/main/docs",
        "Changelog": f"{home}/blob/main/CHANGELOG.md",
        "Source": home,
        "Issues": f"{home}/issues",
    }


def absolute(text: str, home: str | None) -> str:
    """Have a README's links and pictures lead to the repository. Where that is not known their text stays alone.

    :param text: Markdown.
    :param home: the repository's address.
    """

    def lead(link: re.Match[str]) -> str:
        # A picture is shown by its content, everything else by the repository's page of it.
        return f"{link[1]}[{link[2]}]({home}/{'raw' if link[1] else 'blob'}/main/{link[3]})" if home else link[2]

    return _RELATIVE.sub(lead, text)
