"""One way in which secrets are taken out of what programs say: Helm's and Terraform's alike."""

from __future__ import annotations

import base64
import json

import pytest

from ray_provider._shared.redaction import Redactor, secrets_in


def test_what_looks_like_a_secret_is_hidden_where_it_is_asked_for():
    redact = Redactor(["s3cr3t-value"], guess=True)
    for secret, text in {
        "s3cr3t-value": "x s3cr3t-value y",
        "abcdefgh12345": "Authorization: Bearer abcdefgh12345",
        "hunter2": 'db_password = "hunter2"',
        "of-a-phrase": "passphrase: of-a-phrase",
        "AKIAEXAMPLE": "aws_access_key: AKIAEXAMPLE",
        "pass": "https://user:pass@host/path",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln": "got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln here",
        "QUJDRA==": "client-key-data: QUJDRA==",
    }.items():
        assert secret not in redact(text)
    assert redact("upgrade ray --namespace ml") == "upgrade ray --namespace ml"
    assert Redactor(["s3cr3t-value"])("token = (known after apply)") == "token = (known after apply)"


@pytest.mark.parametrize("form", [str, lambda text: base64.b64encode(text.encode()).decode(), json.dumps])
def test_a_value_of_a_chart_is_found_in_the_forms_of_a_manifest(form):
    """Helm shows a Secret that Kubernetes refuses as it sends it: in base64."""
    value = 'a "quoted" value'
    told = Redactor(secrets_in({"redis": {"password": value}}), guess=True)(f"refused: data: {form(value)} of it")
    assert form(value).strip('"=') not in told
    assert told.startswith("refused: data: ")


def test_values_are_secret_by_their_own_names_and_names_of_secrets_are_not():
    values = {
        "redisPassword": "a1",
        "env": [{"name": "API_TOKEN", "value": "b2"}, {"name": "LEVEL", "value": "info"}],
        "x": {"secret": "c3", "passphrase": "d4", "aws_secret_access_key": "e5"},
        "tokens": 3,
        "secretName": "of-the-cluster",
        "authOptions": {"mode": "token"},
    }
    assert secrets_in(values) == ["a1", "b2", "c3", "d4", "e5"]
