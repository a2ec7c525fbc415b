"""What a connection of type ray may say, and what it is told when it can't work."""

from __future__ import annotations

import json

import pytest
import yaml

from ray_provider.exceptions import ConfigurationError
from ray_provider.hooks.address import check_address
from ray_provider.hooks.cloud_cluster import CloudCluster
from ray_provider.hooks.connection import RayConnectionConfig

KUBECONFIG = {"clusters": [{"name": "c"}], "contexts": [], "users": []}


def read(extra=None, **fields):
    return RayConnectionConfig.from_connection("c", extra=extra or {}, environ=fields.pop("environ", {}), **fields)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("localhost", "http://localhost:8265"),
        ("head:6379", "http://head:8265"),
        ("ray://head:10001", "http://head:8265"),
        ("ftp://head:8265", "only http and https"),
        ("http://", "names no host"),
        ("http://head:port", "no URL"),
        ("http://head name:8265", "names no host"),
        ("http://head:8265/#/jobs", "fragment"),
        ("auto", "only a program on the Ray machine"),
    ],
)
def test_a_malformed_address_is_refused_and_the_way_out_named(address, says):
    with pytest.raises(ConfigurationError) as caught:
        read({"address": address})
    assert says in str(caught.value)
    assert "address" in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (" http://head:8265/ ", "http://head:8265"),
        ("HTTPS://head/ray/", "https://head/ray"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_an_address_is_normalised(address, url):
    assert read({"address": address}).address == url


def test_a_user_in_the_address_becomes_a_header_and_is_not_shown():
    config = read({"address": "http://me:s3cret@head:8265"})
    assert config.address == "http://head:8265"
    assert config.headers["Authorization"].startswith("Basic ")
    assert "s3cret" not in repr(config)


def test_the_address_comes_from_extra_then_host_then_the_environment():
    environ = {"RAY_ADDRESS": "http://env:1"}
    assert read({"address": "http://a:1"}, host="h", environ=environ).address == "http://a:1"
    assert read({}, host="h", environ=environ).address == "http://h:8265"
    assert read({}, host="h", port=1, schema="https").address == "https://h:1"
    assert read({}, environ=environ).address == "http://env:1"
    with pytest.raises(ConfigurationError, match="RAY_ADDRESS"):
        read({}, environ={"RAY_ADDRESS": "head:6379"})


def test_no_address_is_an_error_only_when_one_is_needed():
    config = read({"backend": "local"})
    with pytest.raises(ConfigurationError, match="no Ray address") as caught:
        config.require_address()
    assert "cluster=setup.output" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "verify"),
    [
        (None, True),
        ("", True),
        (True, True),
        (False, False),
        ("false", False),
        ("0", False),
        ("True", True),
        (0, False),
    ],
)
def test_certificates_are_checked_unless_switched_off_by_name(value, verify):
    assert read({"verify": value}).tls.verify is verify
    assert read({"extra__ray__verify": value}).tls.verify is verify


def test_verify_may_be_the_path_of_a_ca_file(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text("x")
    tls = read({"verify": str(path)}).tls
    assert (tls.verify, tls.ca_file) == (True, str(path))
    with pytest.raises(ConfigurationError, match="no file on this machine") as caught:
        read({"ca_file": str(tmp_path / "missing.pem")})
    assert caught.value.data["field"] == "ca_file"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"headers": "not json"}, "`headers` is no JSON"),
        ({"headers": "[1]"}, "`headers` is no JSON object"),
        ({"headers": {"a": 1}}, "`headers` holds a int at 'a'"),
        ({"metadata": '{"a": {}}'}, "`metadata` holds a dict"),
        ({"cookies": "nonsense"}, "`cookies` is no JSON"),
        ({"backend": "k8s"}, "`backend` is 'k8s'"),
        ({"access": "vpn"}, "`access` is 'vpn'"),
        ({"verify": "nein"}, "no file"),
        ({"in_cluster": "perhaps"}, "`in_cluster` is 'perhaps'"),
        ({"address": 8265}, "`address` is a int"),
        ({"kube_config": "just: text"}, "`kube_config` is no kubeconfig"),
        ({"kube_config": KUBECONFIG, "kube_config_path": "/k"}, "`kube_config_path`"),
        ({"in_cluster": True, "kube_config_path": "/k"}, "`in_cluster`"),
        ({"eks_cluster": "e"}, "`cloud_location` is empty"),
        ({"cloud_location": "eu-west-1"}, "`cloud_location` is given without a cluster"),
        ({"cloud_location": "l"}, "`cloud_location` is given without a cluster"),
        ({"allowed_namespaces": {"a": 1}}, "`allowed_namespaces` is no list of names"),
        ({"eks_cluster": "e", "gke_cluster": "g", "cloud_location": "x"}, "`gke_cluster` is given, and so is"),
        ({"gke_cluster": "g", "cloud_location": "x"}, "`gcp_project` is empty"),
        ({"eks_cluster": "e", "cloud_location": "x", "gcp_project": "p"}, "`gcp_project` is given for an EKS"),
        ({"eks_cluster": "e", "cloud_location": "x", "in_cluster": True}, "`eks_cluster` is given, and so is a kube"),
        ({"gke_cluster": "g", "cloud_location": "x", "gcp_project": "p", "kube_config_path": "/k"}, "`gke_cluster`"),
        ({"gke_cluster": 7}, "`gke_cluster` is a int"),
    ],
)
def test_a_field_that_cannot_work_is_named(extra, says):
    with pytest.raises(ConfigurationError) as caught:
        read(extra)
    assert says in str(caught.value)
    assert "'c'" in str(caught.value)


def test_secrets_are_neither_in_the_representation_nor_in_errors():
    config = read(
        {
            "address": "http://head:8265",
            "token": "t0ken-value",
            "headers": {"X-Key": "h3ader-value"},
            "cookies": "session=c00kie-value",
            "kube_config": {**KUBECONFIG, "users": [{"user": {"token": "kub3-value"}}]},
        },
        password="unused",
    )
    assert config.token == "t0ken-value"
    assert config.cookies == {"session": "c00kie-value"}
    for secret in ("t0ken-value", "h3ader-value", "c00kie-value", "kub3-value"):
        assert secret not in repr(config)
    with pytest.raises(ConfigurationError) as caught:
        read({"kube_config": "clusters: [\n token: kub3-value"})
    assert "kub3-value" not in str(caught.value)


def test_the_fields_as_the_predecessor_stored_them_are_read():
    fields = {"address": "http://head:8265", "headers": '{"a": "b"}', "namespace": "ray", "cluster_context": "ctx"}
    config = read({f"extra__ray__{key}": value for key, value in fields.items()})
    assert (config.address, config.headers, config.namespace, config.cluster_context) == (
        "http://head:8265",
        {"a": "b"},
        "ray",
        "ctx",
    )
    assert read({"extra__ray__namespace": "old", "namespace": "new"}).namespace == "new"


def test_a_kubeconfig_may_be_json_yaml_or_an_object():
    for form in (KUBECONFIG, json.dumps(KUBECONFIG), "clusters: [{name: c}]"):
        assert read({"kube_config": form}).kubeconfig["clusters"] == [{"name": "c"}]


def test_the_password_is_the_token_unless_the_extra_has_one():
    assert read({}, password="p").token == "p"
    assert read({"token": "t"}, password="p").token == "t"


def test_unknown_fields_are_kept():
    assert read({"aks_cluster": "x", "disable_tcp_keepalive": "true"}).extra == {"aks_cluster": "x"}


def test_a_cluster_of_a_cloud_is_named():
    given = {
        "eks_cluster": "ray",
        "cloud_location": "eu-west-1",
        "aws_role_arn": "arn:aws:iam::1:role/r",
        "namespace": "n",
    }
    config = read({**given, "aws_conn_id": "aws_prod"})
    assert config.cloud == CloudCluster(
        "aws", "ray", "eu-west-1", role_arn="arn:aws:iam::1:role/r", aws_conn_id="aws_prod", namespace="n"
    )
    google = read({"gke_cluster": "ray", "cloud_location": "europe-west4", "gcp_project": "p", "gcp_impersonate": "sa"})
    assert google.cloud == CloudCluster("gcp", "ray", "europe-west4", project="p", impersonate="sa")
    by_name = read(
        {"gke_cluster": "ray", "cloud_location": "europe-west4", "gcp_project": "p", "gke_dns_endpoint": True}
    )
    assert by_name.cloud == CloudCluster("gcp", "ray", "europe-west4", project="p", endpoint="dns")
    assert by_name.enter(CloudCluster("gcp", "ray", "europe-west4")).endpoint == "dns"
    assert by_name.enter(CloudCluster("aws", "ray", "eu-west-1")).endpoint is None
    # By whom a cluster is entered that a task names.
    theirs = CloudCluster("aws", "other", "us-east-1", aws_conn_id="aws_of_the_handle")
    assert config.enter(theirs).to_dict() == {
        "cloud": "aws",
        "name": "other",
        "location": "us-east-1",
        "role_arn": "arn:aws:iam::1:role/r",
        "aws_conn_id": "aws_prod",
        "namespace": "n",
    }
    assert read({}).enter(theirs) == theirs
    assert CloudCluster.from_dict(theirs.to_dict()) == theirs


def test_check_address_names_its_source():
    with pytest.raises(ConfigurationError, match="in XCom"):
        check_address("nothing", "XCom")


@pytest.mark.parametrize(
    ("extra", "fields", "named"),
    [
        ({"token": "planted\nX-Evil: 1"}, {}, "`token`"),
        ({}, {"password": "planted\r\nX: 1"}, "`password`"),
        ({"headers": {"X-Key": "planted\x00"}}, {}, "`headers['X-Key']`"),
        ({"headers": {"X\nKey": "planted"}}, {}, r"`headers['X\nKey']`"),
        ({"cookies": {"session": "planted\x1b[2J"}}, {}, "`cookies['session']`"),
        ({"headers_secret": '{"X-Key": "planted\\n"}'}, {}, "`headers['X-Key']`"),
    ],
)
def test_what_no_header_can_hold_is_told_by_the_fields_name(extra, fields, named):
    with pytest.raises(ConfigurationError) as caught:
        read(extra, **fields)
    assert f"{named} holds a control character" in str(caught.value)
    assert "planted" not in str(caught.value)


def test_airflow_masks_what_holds_secrets_under_their_second_names():
    from airflow.api_fastapi.core_api.datamodels.connections import ConnectionResponse

    extra = {
        "kube_config_secret": {**KUBECONFIG, "users": [{"name": "u", "user": {"client-key-data": "planted-1"}}]},
        "headers_secret": '{"X-Key": "planted-2"}',
        "cookies_secret": {"session": "planted-3"},
        "namespace": "shown",
    }
    shown = ConnectionResponse.redact_extra(json.dumps(extra))
    assert "planted" not in shown
    assert "shown" in shown
    config = read(extra)
    assert config.kubeconfig["users"][0]["user"] == {"client-key-data": "planted-1"}
    assert (config.headers, config.cookies) == ({"X-Key": "planted-2"}, {"session": "planted-3"})
    assert not config.extra
    with pytest.raises(ConfigurationError, match="`headers_secret` is given, and so is `headers`"):
        read({"headers_secret": {"a": "b"}, "headers": {"a": "b"}})


def pem(lines: int = 3) -> str:
    body = "\n".join(["QUJD" * 16] * lines)
    return f"-----BEGIN CERTIFICATE-----\n{body}\nQUI=\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("spoil", [str, lambda text: text.replace("\n", " "), lambda text: text.replace("\n", "\r\n")])
def test_a_certificate_whose_line_ends_became_spaces_is_put_right(spoil):
    """As Airflow's forms of one line leave it."""
    chain = pem() + pem(1)
    assert read({"ca_data": spoil(chain)}).tls.ca_data == chain


@pytest.mark.parametrize(
    "text",
    [pem().replace("-----END CERTIFICATE-----", ""), pem().replace("QUI=", "QUI"), pem().replace("\n", "\\n"), "MIIB"],
    ids=["cut off", "damaged", "escaped", "no PEM"],
)
def test_one_that_cannot_be_put_right_is_refused_by_the_fields_name(text):
    with pytest.raises(ConfigurationError, match="the field `ca_data`") as caught:
        read({"ca_data": text})
    assert "QUJD" not in str(caught.value)


def test_a_kubeconfig_whose_line_ends_became_spaces_is_refused_by_that_name():
    text = yaml.safe_dump({**KUBECONFIG, "users": [{"name": "u", "user": {"token": "planted"}}]})
    with pytest.raises(ConfigurationError, match="`kube_config` has lost its line ends") as caught:
        read({"kube_config": text.replace("\n", " ")})
    assert "--raw --output=json" in str(caught.value)
    assert "planted" not in str(caught.value)
    assert read({"kube_config": text}).kubeconfig["clusters"] == KUBECONFIG["clusters"]


@pytest.mark.parametrize("prefix", ["extra__ray__", "extra__kubernetes__"])
def test_fields_under_the_names_of_old_forms_are_read(prefix):
    """The predecessor's hook was one of Kubernetes: it read both."""
    config = read({f"{prefix}namespace": "maps", f"{prefix}kube_config_path": "/k", f"{prefix}cluster_context": "c"})
    assert (config.namespace, config.kubeconfig_path, config.cluster_context) == ("maps", "/k", "c")
    assert config.extra == {}
    assert read({f"{prefix}namespace": "old", "namespace": "new"}).namespace == "new"
