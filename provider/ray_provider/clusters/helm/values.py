"""Helm values: read from where the user has them, and merged into one, by one rule.

Maps are merged, lists and scalars replaced, ``null`` deletes the chart's default (as Helm does). Later ones win: a
profile, Terraform's ``ray_helm_values``, the user's.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ray_provider._shared.paths import candidates
from ray_provider._shared.yaml_text import load_document
from ray_provider.exceptions import ConfigurationError

Values = dict[str, Any]
#: Values as a user gives them: a mapping, YAML text, a file's path, or several of those.
ValuesInput = Mapping[str, Any] | str | Path | Sequence[Any] | None
Render = Callable[[str], str]

_SUFFIXES = (".yaml", ".yml", ".json")


def merge(*layers: Mapping[str, Any]) -> Values:
    """Merge layers of values; later ones win. None of them is changed.

    A ``null`` is kept: it is what tells Helm to delete the chart's default.

    :param layers: the first is the lowest.
    """
    merged: Values = {}
    for layer in layers:
        _merge_into(merged, layer)
    return merged


def _merge_into(base: Values, layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping):
            under = base.get(key)
            own: Values = under if isinstance(under, dict) else {}
            base[key] = own
            _merge_into(own, value)
        else:
            base[key] = copy.deepcopy(value)


def read_values(
    given: ValuesInput, *, what: str = "values", folders: Iterable[Path] = (), render: Render | None = None
) -> Values:
    """Read values as a user gives them.

    :param given: a mapping, YAML text, the path of a file, or a list of those (later ones win).
    :param what: the argument's name, for messages.
    :param folders: where relative paths are looked for, beside the working directory.
    :param render: renders a template, for what is read from files.
    :raises ConfigurationError: it can't be read, or is no mapping.
    """
    if given is None or given == "":
        return {}
    if isinstance(given, Mapping):
        return merge(_string_keys(given, what))
    if isinstance(given, (str, Path)):
        return read_values(_from_text(given, what, folders, render), what=what)
    if isinstance(given, Sequence) and not isinstance(given, bytes | bytearray):
        return merge(
            *(read_values(one, what=f"{what}[{i}]", folders=folders, render=render) for i, one in enumerate(given))
        )
    raise ConfigurationError(
        f"`{what}` is of type {type(given).__name__}.",
        hint="Give a dict, YAML text, the path of a YAML file, or a list of those.",
    )


def looks_like_path(given: str | Path) -> bool:
    """Tell a path from YAML text.

    :param given: of the user.
    """
    if isinstance(given, Path):
        return True
    return "\n" not in given and given.strip().endswith(_SUFFIXES) and ": " not in given


def read_file(given: str | Path, what: str, folders: Iterable[Path] = ()) -> tuple[Path, str]:
    """Read a text file, relative to the working directory or one of the folders.

    :param given: the path.
    :param what: it is, for messages.
    :param folders: where it may lie, beside the working directory. Default: nowhere else.
    :raises ConfigurationError: there is none, or it can't be read.
    """
    tried = candidates(given, folders)
    found = next((one for one in tried if one.is_file()), None)
    if found is None:
        raise ConfigurationError(
            f"The file that `{what}` names is not there: {', '.join(map(str, tried))}.",
            hint="The path has to exist on the worker that runs the task. Relative paths begin at the folder of "
            "the DAG's file, else at the working directory.",
        )
    try:
        return found, found.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The file that `{what}` names can't be read: {found}: {error}.") from error


def _from_text(given: str | Path, what: str, folders: Iterable[Path], render: Render | None) -> Mapping[str, Any]:
    if looks_like_path(given):
        path, text = read_file(given, what, folders)
        source = f"{what} ({path})"
        text = render(text) if render else text
    else:
        source, text = what, str(given)
    loaded = load_yaml(text, source)
    if loaded is None:
        return {}
    if not isinstance(loaded, Mapping):
        raise ConfigurationError(
            f"`{source}` is no mapping of values, but {type(loaded).__name__}.",
            hint="A path has to end in .yaml, .yml or .json; anything else is taken as YAML text.",
        )
    return loaded


def load_yaml(text: str, source: str) -> Any:
    """Load one YAML document, safely.

    :param text: the document.
    :param source: where it is from, for messages.
    :raises ConfigurationError: it is not YAML. The message says where, and shows no content.
    """
    try:
        return load_document(text)
    except yaml.YAMLError as error:
        raise invalid_yaml(error, source) from None


def invalid_yaml(error: yaml.YAMLError, source: str) -> ConfigurationError:
    """Say where a text is not YAML, without showing it: it may hold secrets.

    :param error: the parser's.
    :param source: where the text is from, for messages.
    """
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    # A name of a tag or an alias may be the beginning of a password that nobody put into quotes.
    problem = re.sub(r"'[^'\s]{2,}'", "(not shown)", getattr(error, "problem", None) or "it can't be read")
    return ConfigurationError(
        f"`{source}` is not valid YAML{where}: {problem}.", hint="Check its indentation, quotes and colons there."
    )


def _string_keys(given: Mapping[Any, Any], what: str) -> Mapping[str, Any]:
    strange = [key for key in given if not isinstance(key, str)]
    if strange:
        raise ConfigurationError(f"`{what}` has a key that is no text: {strange[0]!r}.", hint="Quote it.")
    return given


def check_known(values: Mapping[str, Any], defaults: Mapping[str, Any], *, open_maps: Iterable[str] = ()) -> None:
    """Refuse keys that the chart's own values do not have (strict mode).

    A map that is empty, or ``null``, in the chart takes any key; so do those of ``open_maps``.

    :param values: the user's.
    :param defaults: the chart's ``values.yaml``.
    :param open_maps: dotted paths below which anything may stand.
    :raises ConfigurationError: it names the key, and what it may have been meant to be.
    """
    unknown: list[str] = []
    _unknown(values, defaults, "", set(open_maps), unknown)
    if unknown:
        known = sorted(_paths(defaults, ""))
        close = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.6)
        meant = f" Did you mean `{close[0]}`?" if close else ""
        raise ConfigurationError(
            f"The chart has no value {', '.join(f'`{path}`' for path in unknown)}.{meant}",
            hint="Correct the key, or switch `strict` off: then keys that the chart does not know do nothing.",
            keys=unknown,
        )


def unknown_keys(values: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """Give the keys that a chart does not know, by the part of its schema that refuses them when it is strict.

    :param values: the user's.
    :param schema: the chart's ``values.schema.json``.
    """
    found: list[str] = []
    _beyond(values, schema.get("then") or {}, schema.get("definitions") or {}, "", found)
    return found


def _beyond(
    value: Any, known: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str, found: list[str]
) -> None:
    if not isinstance(value, Mapping):
        return
    if "$ref" in known:
        known = definitions[str(known["$ref"]).rpartition("/")[2]]
    properties, further = known.get("properties") or {}, known.get("additionalProperties")
    for key, below in value.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if key in properties:
            _beyond(below, properties[key], definitions, path, found)
        elif further is False:
            found.append(path)
        elif isinstance(further, Mapping):
            _beyond(below, further, definitions, path, found)


def tell_unknown(values: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    """Say which keys do nothing, and what the first may have been meant to be; ``None`` where there are none.

    :param values: of the user.
    :param schema: the chart's ``values.schema.json``.
    """
    unknown = unknown_keys(values, schema)
    if not unknown:
        return None
    place, _, key = unknown[0].rpartition(".")
    near = schema.get("then") or {}
    for part in filter(None, place.split(".")):
        near = _enter(near, part, schema.get("definitions") or {})
    close = difflib.get_close_matches(key, list(near.get("properties") or {}), n=1, cutoff=0.6)
    meant = f" (is `{f'{place}.{close[0]}' if place else close[0]}` meant?)" if close else ""
    told = ", ".join(f"`{path}`" for path in unknown[:10])
    return (
        f"The chart has no value {told}{meant}: {'it does' if len(unknown) == 1 else 'they do'} nothing. "
        "strict=True refuses such values."
    )


def _enter(known: Mapping[str, Any], key: str, definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    below: Any = (known.get("properties") or {}).get(key) or known.get("additionalProperties") or {}
    if isinstance(below, Mapping) and "$ref" in below:
        below = definitions[str(below["$ref"]).rpartition("/")[2]]
    return below if isinstance(below, Mapping) else {}


def _unknown(values: Mapping[str, Any], defaults: Any, prefix: str, open_maps: set[str], found: list[str]) -> None:
    for key, value in values.items():
        path = f"{prefix}.{key}" if prefix else key
        if key not in defaults:
            found.append(path)
        elif (
            isinstance(value, Mapping)
            and isinstance(defaults[key], Mapping)
            and defaults[key]
            and path not in open_maps
        ):
            _unknown(value, defaults[key], path, open_maps, found)


def _paths(values: Mapping[str, Any], prefix: str) -> Iterable[str]:
    for key, value in values.items():
        path = f"{prefix}.{key}" if prefix else key
        yield path
        if isinstance(value, Mapping):
            yield from _paths(value, path)
