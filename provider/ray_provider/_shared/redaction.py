"""Takes secrets out of text, before anybody sees it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

MASK = "***"
#: Shorter values are too likely to be part of ordinary words: masking them would make a log unreadable and would tell
#: the value by what is missing.
SHORTEST = 4

_SECRET_NAME = re.compile(
    r"(?:passw|passphrase|secret|token|api_?key|private_?key|access_?key|encryption_?key|credential|sas_|client_key|auth)",
    re.IGNORECASE,
)


def sounds_secret(name: str) -> bool:
    """Whether the name of a field says that its value is a secret."""
    return _SECRET_NAME.search(name) is not None


def leaves(value: Any) -> Iterable[str]:
    """Give every string inside a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from leaves(item)


class Redactor:
    """Knows the secrets of a run and replaces them, in the forms in which programs print them."""

    def __init__(self) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, value: Any) -> None:
        """Remember the strings in a value as secrets."""
        for text in leaves(value):
            if text.lstrip().startswith("{"):
                # A key as Google gives it: the private part may show without the rest.
                with suppress(ValueError):
                    self.add_named(json.loads(text))
            forms = {text, text.strip(), *(line.strip() for line in text.splitlines() if len(line.strip()) >= 8)}
            for form in tuple(forms):
                forms.update(_written(form))
            self._forms.update(form for form in forms if len(form) >= SHORTEST)
            self._pattern = None

    def add_named(self, values: Mapping[str, Any]) -> None:
        """Remember the values whose names sound secret, at any depth."""
        for name, value in values.items():
            if sounds_secret(str(name)):
                self.add(value)
            elif isinstance(value, Mapping):
                self.add_named(value)

    def __call__(self, text: str) -> str:
        """Give the text without the secrets."""
        if not self._forms:
            return text
        if self._pattern is None:
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._pattern = re.compile("|".join(re.escape(form) for form in longest_first))
        return self._pattern.sub(MASK, text)

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._forms)} forms>"


def _written(text: str) -> Iterable[str]:
    """Give a text as JSON, HCL, a URL, Go and base64 would write it."""
    as_json = json.dumps(text)[1:-1]
    yield as_json
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    # Go escapes these three in JSON for the sake of HTML.
    yield as_json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    yield text.replace("${", "$${").replace("%{", "%%{")
    yield quote(text, safe="")
    yield quote(text)
    if len(text) >= 8:
        yield base64.b64encode(text.encode()).decode().rstrip("=")
