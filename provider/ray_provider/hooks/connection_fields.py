"""The single fields of an Airflow connection of type ``ray``: read, checked, and what is wrong told by their name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.cloud_cluster import DNS, CloudCluster
from ray_provider.jobs.endpoint import TlsOptions

#: How the forms of Airflow before 2.3 stored a field; connections made by the predecessor may still hold it.
#: Its hook was one of Kubernetes, and read fields by that name, too.
_OLD_PREFIXES = ("extra__kubernetes__", "extra__ray__")

#: Airflow masks extras in its API by their name only (token, password, secret ...): these under such a name.
MASKED_NAMES = {"kube_config": "kube_config_secret", "headers": "headers_secret", "cookies": "cookies_secret"}

_KUBECONFIG_OUTPUT = "Paste the output of: kubectl config view --minify --flatten --raw --output=json"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_YAML_KEY = re.compile(r"\b(apiVersion|clusters|kind): ")

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}

#: The field that names the cluster of a cloud.
CLUSTER_FIELDS = {"aws": "eks_cluster", "gcp": "gke_cluster"}


class ConnectionFields:
    """Takes fields out of a connection's extra, and words the errors. All methods raise ``ConfigurationError``.

    :param conn_id: of the connection, for messages.
    :param extra: its extra field, as a mapping.
    """

    def __init__(self, conn_id: str, extra: Mapping[str, Any]) -> None:
        self.conn_id = conn_id
        self._fields: dict[str, Any] = {}
        for prefix in (*_OLD_PREFIXES, ""):  # what is given under its own name wins
            self._fields |= {
                key.removeprefix(prefix): value
                for key, value in extra.items()
                if key.startswith(prefix) and (prefix or not key.startswith(_OLD_PREFIXES))
            }
        self._read: set[str] = set()

    def error(self, name: str, what: str, hint: str) -> ConfigurationError:
        """Word what is wrong with a field.

        :param name: the field's.
        :param what: such as ``"is empty"``.
        :param hint: what to do.
        """
        return ConfigurationError(f"Connection {self.conn_id!r}: the field `{name}` {what}.", hint=hint, field=name)

    def get(self, name: str) -> Any:
        """Give a field as it is, text without the blanks around it.

        Where it holds secrets, it may have a name by which Airflow masks it in its API: see :data:`MASKED_NAMES`.

        :param name: the field's.
        :raises ConfigurationError: it is given under both of its names.
        """
        given = [one for one in (name, MASKED_NAMES.get(name, name)) if self._fields.get(one) not in (None, "")]
        self._read |= {name, MASKED_NAMES.get(name, name)}
        if len(set(given)) > 1:
            raise self.error(given[1], f"is given, and so is `{name}`", "Keep one of the two: both say the same.")
        value = self._fields.get(given[0] if given else name)
        return value.strip() if isinstance(value, str) else value

    def secret(self, name: str) -> str | None:
        """Give a field that holds a secret that goes into a header.

        :param name: the field's.
        """
        value = self.text(name)
        self.check_header(name, value or "")
        return value

    def check_header(self, name: str, value: str) -> None:
        """Refuse what no header can hold. What it is, is not shown.

        :param name: the field's, for the message.
        :param value: what is to go into a header.
        :raises ConfigurationError: no header can hold it.
        """
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise self.error(
                name,
                "holds a control character, such as a line break",
                "Copy it again, in one line: a header can't hold one.",
            )

    def rest(self) -> dict[str, Any]:
        """Give the fields that nobody has read."""
        return {key: value for key, value in self._fields.items() if key not in self._read}

    def text(self, name: str) -> str | None:
        """Give a field that holds text; None: it is empty.

        :param name: the field's.
        :raises ConfigurationError: it holds something else.
        """
        value = self.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self.error(name, f"is a {type(value).__name__}, not text", "Write it as text.")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """Give a field that holds names: a list, or text with commas between them.

        :param name: the field's.
        :raises ConfigurationError: it holds something else.
        """
        value = self.get(name)
        if value is None:
            return ()
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(one, str) for one in parts):
            raise self.error(name, "is no list of names", "Write names, separated by commas.")
        return tuple(one.strip() for one in parts if one.strip())

    def flag(self, name: str, *, default: bool) -> bool:
        """Give a field that says yes or no.

        :param name: the field's.
        :param default: what an empty one means.
        :raises ConfigurationError: it says neither.
        """
        value = self.get(name)
        if value is None or value == "":
            return default
        if isinstance(value, bool):
            return value
        word = str(value).lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
        raise self.error(name, f"is {value!r}", "Write true or false.")

    def choice(self, name: str, values: tuple[str, ...], default: str) -> str:
        """Give a field that holds one of some words, in small letters.

        :param name: the field's.
        :param values: the words.
        :param default: what an empty one means.
        :raises ConfigurationError: it holds another word.
        """
        value = (self.text(name) or default).lower()
        if value in values:
            return value
        raise self.error(name, f"is {value!r}", f"It must be one of: {', '.join(values)}.")

    def verify(self) -> tuple[bool, str | None]:
        """Give whether certificates are checked, and by which CA file. On, unless switched off by name.

        :raises ConfigurationError: two files are named, or one that is not there.
        """
        ca_file = self.text("ca_file")
        value = self.get("verify")
        if isinstance(value, str) and value and value.lower() not in _TRUE | _FALSE:
            # requests, and with it Ray's own client, takes a path here.
            if ca_file and ca_file != value:
                raise self.error("verify", "names another file than `ca_file`", "Write true, and keep `ca_file`.")
            checked, ca_file = True, value
        else:
            checked = self.flag("verify", default=True)
        if ca_file and not os.path.isfile(ca_file):  # noqa: PTH113
            raise self.error(
                "ca_file", f"names {ca_file!r}, which is no file on this machine", "Give the path of a PEM file."
            )
        return checked, ca_file

    def tls(self) -> TlsOptions:
        """Give how the dashboard's certificate is checked, and which one is shown to it.

        :raises ConfigurationError: the fields contradict each other, or name a file that is not there.
        """
        verify, ca_file = self.verify()
        ca_data = self.text("ca_data")
        if ca_data and ca_file:
            raise self.error("ca_data", "is given, and so is `ca_file`", "Keep one of the two.")
        if ca_data:
            ca_data = self._pem("ca_data", ca_data)
        files = {name: self.text(name) for name in ("cert_file", "key_file")}
        if files["key_file"] and not files["cert_file"]:
            raise self.error("key_file", "is given without `cert_file`", "A key is shown with its certificate only.")
        for name, path in files.items():
            if path and not os.path.isfile(path):  # noqa: PTH113
                raise self.error(name, f"names {path!r}, which is no file on this machine", "Give a PEM file's path.")
        return TlsOptions(verify=verify, ca_file=ca_file, ca_data=ca_data, **files)

    def _pem(self, name: str, text: str) -> str:
        """Give certificates with their lines as they were: a form of one line turns line ends into spaces.

        :raises ConfigurationError: there are none, or one is damaged.
        """
        found = _CERTIFICATE.findall(text)
        if not found or text.count("-----BEGIN CERTIFICATE-----") != len(found):
            raise self.error(name, "is no certificate", "Paste the PEM text, BEGIN and END lines included.")
        if "\\n" in text:
            raise self.error(name, "has \\n where lines end", "Paste the PEM text with real line ends.")
        made = []
        for body in found:
            data = "".join(body.split())
            if not _BASE64.fullmatch(data) or len(data) % 4:
                raise self.error(
                    name, "holds a certificate that is damaged: it is no base64", "Copy the PEM text once more."
                )
            lines = [data[start : start + 64] for start in range(0, len(data), 64)]
            made.append("\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----\n"]))
        return "".join(made)

    def mapping(self, name: str, other_form: Callable[[str], dict[str, str] | None] | None = None) -> dict[str, str]:
        """Give a field that holds names and values: a mapping, or its JSON.

        :param name: the field's.
        :param other_form: reads text that is no JSON; None: it is not that either.
        :raises ConfigurationError: it holds something else.
        """
        value = self.get(name)
        if value is None or value == "":
            return {}
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                read = other_form(value) if other_form else None
                if read is not None:
                    return read
                raise self.error(
                    name, f"is no JSON ({error})", f'Write {name} as a JSON object: {{"name": "value"}}.'
                ) from None
        if not isinstance(value, Mapping):
            raise self.error(name, "is no JSON object", f'Write {name} as a JSON object: {{"name": "value"}}.')
        for key, item in value.items():
            if not isinstance(key, str) or not isinstance(item, str):
                raise self.error(
                    name, f"holds a {type(item).__name__} at {key!r}", "Names and values must be strings: quote them."
                )
        return dict(value)

    def cloud(self) -> CloudCluster | None:
        """Give the cluster of EKS or GKE, if one is named.

        :raises ConfigurationError: more than one is named, or something of it is missing.
        """
        names = {cloud: self.text(name) for cloud, name in CLUSTER_FIELDS.items()}
        location, project = self.text("cloud_location"), self.text("gcp_project")
        given = [cloud for cloud, name in names.items() if name]
        if not given:
            if location:
                raise self.error(
                    "cloud_location", "is given without a cluster", "Name it: `eks_cluster` or `gke_cluster`."
                )
            return None
        if len(given) > 1:
            raise self.error("gke_cluster", "is given, and so is `eks_cluster`", "Keep one of the two.")
        cloud = given[0]
        if not location:
            kind = "region, such as eu-west-1" if cloud == "aws" else "region or zone, such as europe-west4"
            raise self.error("cloud_location", "is empty", f"Give the cluster's {kind}.")
        if cloud == "aws" and project:
            raise self.error("gcp_project", "is given for an EKS cluster", "Leave it out.")
        if cloud == "gcp" and not project and not self.text("gcp_conn_id"):
            raise self.error("gcp_project", "is empty", "Give the project of the GKE cluster.")
        return CloudCluster(
            cloud=cloud,
            name=str(names[cloud]),
            location=location,
            project=project,
            role_arn=self.text("aws_role_arn"),
            impersonate=self.text("gcp_impersonate"),
            aws_conn_id=self.text("aws_conn_id"),
            gcp_conn_id=self.text("gcp_conn_id"),
            namespace=self.text("namespace"),
            endpoint=DNS if cloud == "gcp" and self.flag("gke_dns_endpoint", default=False) else None,
        )

    def cookies(self) -> dict[str, str]:
        """Give the cookies: JSON, or as a browser shows them."""
        return self._headers("cookies", _cookie_header)

    def headers(self) -> dict[str, str]:
        """Give the headers."""
        return self._headers("headers")

    def _headers(self, name: str, other_form: Callable[[str], dict[str, str] | None] | None = None) -> dict[str, str]:
        found = self.mapping(name, other_form)
        for key, value in found.items():
            self.check_header(f"{name}[{key!r}]", key + value)
        return found

    def kubeconfig(self) -> Mapping[str, Any] | None:
        """Give the kubeconfig that the connection itself holds: JSON, YAML or a mapping.

        :raises ConfigurationError: it holds something else.
        """
        value = self.get("kube_config")
        if value is None or value == "":
            return None
        text = ""
        if isinstance(value, str):
            text, value = value, _load(value)
        if isinstance(value, Mapping) and isinstance(value.get("clusters"), list):
            return dict(value)
        if "\n" not in text and not text.startswith("{") and _YAML_KEY.search(text):
            raise self.error(
                "kube_config",
                "has lost its line ends: it is YAML in one line, as a form of one line leaves it",
                f"Paste JSON, which needs no lines. {_KUBECONFIG_OUTPUT}",
            )
        raise self.error(
            "kube_config",
            "is no kubeconfig (a JSON or YAML object with `clusters`)",
            _KUBECONFIG_OUTPUT,
        )


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        import yaml

        from ray_provider._shared.yaml_text import load_document

        try:
            return load_document(text)
        except yaml.YAMLError:
            # What is wrong with it is not said: the text of a YAML error quotes what it read.
            return None


def _cookie_header(text: str) -> dict[str, str] | None:
    """Read the form in which a browser shows cookies: ``a=1; b=2``."""
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    if not pairs or any(not name.strip() or not middle for name, middle, _ in pairs):
        return None
    return {name.strip(): value.strip() for name, _, value in pairs}
