"""What Terraform asks of the emulated AWS, as IAM names it: a line in the server's log for each call."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

_MARK = "terraform calls "


def install() -> None:
    """Have moto write the calls down. (S3 goes ways of its own there, and is not among them.)"""
    from moto.core.responses import BaseResponse

    call = BaseResponse.call_action

    def written_down(self: Any) -> Any:
        if "terraform" in str(self.headers.get("User-Agent", "")).lower():
            # In one piece: the server's threads write into the same log.
            os.write(sys.stderr.fileno(), f"\n{_MARK}{self.service_name}:{self._get_action()}\n".encode())
        return call(self)

    BaseResponse.call_action = written_down  # type: ignore[method-assign]


def read(log: Path) -> set[str]:
    """Read them, such as ``iam:CreateRole``.

    :param log: the server's.
    """
    return set(re.findall(rf"^{_MARK}(\w+:\w+)$", log.read_text(), re.MULTILINE))
