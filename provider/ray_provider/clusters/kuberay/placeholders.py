"""What somebody was to fill in before a manifest is used, and did not: named by its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ray_provider.exceptions import ConfigurationError

#: ``${NAME}`` of envsubst, ``<your-image>`` of a text, what is left of a template.
_LEFT = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(?::?[-=?+][^}]*)?\}|<[A-Za-z][A-Za-z0-9 _./-]*>|\{\{.*?\}\}")
#: A Go template: nothing in Jinja begins with a full stop.
_HELM = re.compile(r"\{\{-?\s*(?:\.[A-Za-z_]|(?:include|template|tpl)\s).*?\}\}")
#: Free text: a shell reads these, or a program of the user's own.
_FREE = frozenset({"command", "args", "env", "annotations", "exec", "serveConfigV2", "entrypoint", "runtimeEnvYAML"})


def refuse_placeholders(document: Mapping[str, Any], source: str) -> None:
    """Refuse an object in which something was to be filled in.

    :param document: the object.
    :param source: where it was read from, for the message.
    :raises ConfigurationError: it names the first place and what stands there.
    """
    found = list(_placeholders(document, ""))
    if found:
        path, text = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise ConfigurationError(
            f"`{source}` is not filled in: {path} is {text!r}{more}.",
            hint="Replace what stands there, e.g. with envsubst; or write {{ params.x }} or {{ var.value.x }}: files "
            "beside the DAG and text of a task are rendered by Airflow.",
            field=path,
        )


def refuse_helm_template(text: str, source: str) -> None:
    """Refuse a template of a Helm chart, or of another program in Go, before anything else is read from it.

    :param text: YAML, before it is parsed.
    :param source: where it was read from, for the message.
    :raises ConfigurationError: it is one; says in which line.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        found = _HELM.search(line)
        if found:
            key = line.partition(":")[0].strip(" -")
            where = f"line {number}" + (f" ({key})" if re.fullmatch(r"[\w.]+", key) else "")
            raise ConfigurationError(
                f"`{source}` is a template of a Helm chart, not a manifest: {where} has {found[0]}.",
                hint="Give the chart itself (`chart=`), or what `helm template` makes of it.",
            )


def _placeholders(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if isinstance(key, Mapping) or _LEFT.search(str(key)):
                yield path or "(root)", str(key)
            elif key not in _FREE:
                yield from _placeholders(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _placeholders(value, f"{path}[{index}]")
    elif isinstance(node, str) and _LEFT.search(node):
        yield path, node[:100]
