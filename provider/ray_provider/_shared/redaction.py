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

_WORDS = (
    "password|passwd|passphrase|secret|token|credential|sas_token|"
    "api_?key|private_?key|access_?key|encryption_?key|client_?key"
)
_SOUNDS_SECRET = re.compile(f"{_WORDS}|passw|sas_|auth", re.IGNORECASE)
_ENDS_SECRET = re.compile(f"(?:{_WORDS})s?$", re.IGNORECASE)
#: What shows that a secret follows, or is one by its form.
_GUESSES = (
    re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(rf"(?i)\b((?:[\w.-]*(?:{_WORDS}))\"?\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|\S+)"),
    re.compile(
        r"(\b(?:client-key-data|client-certificate-data|certificate-authority-data)\"?\s*:\s*\"?)[A-Za-z0-9+/=]+"
    ),
    re.compile(r"(://)[^/@\s:]+:[^/@\s]+(?=@)"),
    re.compile(r"()\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"),
)


def sounds_secret(name: str) -> bool:
    """Whether the name of a field says that what lies under it is, or has to do with, a secret.

    :param name: of a field, a variable or a header.
    """
    return _SOUNDS_SECRET.search(name) is not None


def secrets_in(values: Any, key: str = "") -> list[str]:
    """Give the texts in values whose own names say that they are secrets.

    Closer than :func:`sounds_secret`: values of a chart name Secrets (``secretName``), and have modes of ``auth``; a
    message without those would tell nothing.

    :param values: of a chart, at any depth; ``{"name": …, "value": …}`` in lists are taken as what they are.
    :param key: the name that the values lie under.
    """
    if isinstance(values, Mapping):
        return [secret for name, value in values.items() for secret in secrets_in(value, str(name))]
    if isinstance(values, (list, tuple)):
        found = [
            str(item["value"])
            for item in values
            if isinstance(item, Mapping) and {"name", "value"} <= item.keys() and _ENDS_SECRET.search(str(item["name"]))
        ]
        return found + [secret for value in values for secret in secrets_in(value, key)]
    return [values] if isinstance(values, str) and _ENDS_SECRET.search(key) else []


def leaves(value: Any) -> Iterable[str]:
    """Give every string inside a value, at any depth.

    :param value: a text, or maps and lists with texts in them. What else is in it is passed over.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from leaves(item)


class Redactor:
    """Knows the secrets of a run and replaces them, in the forms in which programs print them.

    :param secrets: what must not show.
    :param guess: hide what looks like a secret, too. For programs that print what nobody told us of.
    """

    def __init__(self, secrets: Iterable[str] = (), *, guess: bool = False) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._guess = guess
        self.add(list(secrets))

    def add(self, value: Any) -> None:
        """Remember the strings in a value as secrets.

        :param value: a text, or maps and lists with texts in them. Texts that are too short (:data:`SHORTEST`) are not
            hidden.
        """
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
        """Remember the values whose names sound secret, at any depth.

        :param values: fields with their names, nested or not.
        """
        for name, value in values.items():
            if sounds_secret(str(name)):
                self.add(value)
            elif isinstance(value, Mapping):
                self.add_named(value)

    def __call__(self, text: str) -> str:
        """Give the text without the secrets.

        :param text: such as a log's line, or an error.
        """
        if self._forms:
            if self._pattern is None:
                longest_first = sorted(self._forms, key=len, reverse=True)
                self._pattern = re.compile("|".join(re.escape(form) for form in longest_first))
            text = self._pattern.sub(MASK, text)
        for pattern in _GUESSES if self._guess else ():
            text = pattern.sub(rf"\g<1>{MASK}", text)
        return text

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
