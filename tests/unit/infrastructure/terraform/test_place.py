"""Which Terraform runs, in which environment, in which folder, and what a state says."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ray_provider.exceptions import ConfigurationError
from ray_provider.infrastructure import exec_plugin
from ray_provider.infrastructure.cloud import eks, gke
from ray_provider.infrastructure.cloud.credentials import RENEW_BEFORE_SECONDS, Token
from ray_provider.infrastructure.errors import BackendError, TerraformNotFoundError, VariableError
from ray_provider.infrastructure.module.spec import InfrastructureSpec
from ray_provider.infrastructure.terraform.backend import Backend
from ray_provider.infrastructure.terraform.binary import find_binary
from ray_provider.infrastructure.terraform.environment import build_environment, default_plugin_cache
from ray_provider.infrastructure.terraform.folder import lock_of, private_folder
from ray_provider.infrastructure.terraform.plugin_cache import drop_damaged
from ray_provider.infrastructure.terraform.state import StateResource, StateView, check_providers

# ---------------------------------------------------------------- the program


def program(folder: Path, name: str, version: str = "1.11.4", *, says: str = "Terraform v1.11.4") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    answer = json.dumps({"terraform_version": version, "platform": "linux_amd64"})
    path.write_text(f"#!/bin/sh\nif [ \"$2\" = -json ]; then echo '{answer}'; else echo '{says}'; fi\n")
    path.chmod(0o700)
    return path


def test_the_program_is_found_as_it_is_named(tmp_path: Path) -> None:
    terraform = program(tmp_path / "path", "terraform")
    env = {"PATH": str(tmp_path / "path")}
    found = find_binary(env=env)
    assert (found.path, found.flavour, found.version, found.platform) == (
        str(terraform),
        "terraform",
        (1, 11, 4),
        "linux_amd64",
    )
    assert found.label == "Terraform 1.11.4"
    own = program(tmp_path / "own", "mine", "1.12.0-beta1")
    assert find_binary(str(own), env).version == (1, 12, 0)
    assert find_binary(env={**env, "RAY_PROVIDER_TERRAFORM": str(own)}).path == str(own)
    assert find_binary(str(terraform), {**env, "RAY_PROVIDER_TERRAFORM": str(own)}).path == str(terraform)


def test_opentofu_is_taken_where_there_is_no_terraform(tmp_path: Path) -> None:
    tofu = program(tmp_path / "path", "tofu", "1.9.0", says="OpenTofu v1.9.0")
    env = {"PATH": str(tmp_path / "path")}
    found = find_binary(env=env)
    assert (found.path, found.flavour, found.label) == (str(tofu), "tofu", "OpenTofu 1.9.0")
    program(tmp_path / "path", "terraform")
    assert find_binary(env=env).flavour == "terraform"


def test_a_program_that_is_missing_old_or_another_is_told(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path)}
    with pytest.raises(TerraformNotFoundError, match="neither `terraform` nor `tofu` is on this worker"):
        find_binary(env=env)
    with pytest.raises(TerraformNotFoundError, match="'terraform9' .field `terraform_binary`. is not on this worker"):
        find_binary("terraform9", env)
    old = program(tmp_path / "old", "terraform", "1.8.9")
    with pytest.raises(TerraformNotFoundError, match=r"Terraform 1.8.9 .* is too old: 1.9 or newer") as caught:
        find_binary(str(old))
    assert caught.value.data["path"] == str(old)
    assert find_binary(str(program(tmp_path / "new", "terraform", "1.9.0"))).version == (1, 9, 0)
    for number, version in enumerate(("one", "1", "1.x.2")):
        odd = program(tmp_path / f"odd{number}", "terraform", version)
        with pytest.raises(TerraformNotFoundError, match="does not answer to `version -json`") as caught:
            find_binary(str(odd))
        assert caught.value.data["path"] == str(odd)


# ---------------------------------------------------------------- the environment


def test_what_changes_terraform_does_not_reach_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = ("TF_LOG", "TF_LOG_PATH", "TF_CLI_ARGS", "TF_CLI_ARGS_plan", "TF_WORKSPACE", "TF_DATA_DIR")
    for name in (*names, "TF_REATTACH_PROVIDERS", "AIRFLOW__CORE__FERNET_KEY", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "planted")
    monkeypatch.setenv("TF_VAR_x", "kept")
    monkeypatch.delenv("TF_CLI_CONFIG_FILE", raising=False)
    told: list[str] = []
    env = build_environment({"MINE": "1", "TF_LOG": "of the task"}, temporary=tmp_path, warn=told.append)
    assert "planted" not in env.values()
    assert (env["TF_VAR_x"], env["MINE"], env["TF_LOG"], env["TMPDIR"]) == ("kept", "1", "of the task", str(tmp_path))
    assert (env["TF_IN_AUTOMATION"], env["TF_INPUT"], env["CHECKPOINT_DISABLE"]) == ("1", "0", "1")
    assert len(told) == len(names)
    assert "The environment variable TF_WORKSPACE is not passed on to Terraform: the workspace is an argument." in told
    assert not [line for line in told if "REATTACH" in line or "planted" in line]


def test_a_configuration_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rc"
    told: list[str] = []
    assert "TF_CLI_CONFIG_FILE" not in build_environment({"TF_CLI_CONFIG_FILE": str(file)}, warn=told.append)
    assert told == [f"TF_CLI_CONFIG_FILE points to {file}, which does not exist: it is ignored."]
    file.touch()
    assert build_environment({"TF_CLI_CONFIG_FILE": str(file)})["TF_CLI_CONFIG_FILE"] == str(file)
    assert "TMPDIR" not in build_environment({}) or "TMPDIR" in os.environ


def test_providers_are_cached_unless_the_user_does_so(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    wanted = tmp_path / ".cache" / "airflow-ray" / "terraform-providers"
    assert default_plugin_cache(home) == wanted
    assert wanted.is_dir()
    assert default_plugin_cache({**home, "XDG_CACHE_HOME": str(tmp_path / "x")}) == (
        tmp_path / "x" / "airflow-ray" / "terraform-providers"
    )
    assert default_plugin_cache({**home, "TF_PLUGIN_CACHE_DIR": "/mine"}) is None
    assert default_plugin_cache({**home, "TF_CLI_CONFIG_FILE": "/mine"}) is None
    (tmp_path / "file").touch()
    assert default_plugin_cache({**home, "XDG_CACHE_HOME": str(tmp_path / "file")}) is None
    for name in (".terraformrc", ".tofurc", ".config/opentofu/tofurc"):
        own = tmp_path / name.replace("/", "-") / name
        own.parent.mkdir(parents=True)
        own.touch()
        assert default_plugin_cache({"HOME": str(tmp_path / name.replace("/", "-"))}) is None


def provider(cache: Path, name: str, version: str) -> Path:
    folder = cache / "registry.terraform.io" / name / version / "linux_amd64"
    folder.mkdir(parents=True)
    (folder / "provider").touch()
    return folder


def test_what_is_damaged_in_the_cache_goes_and_nothing_else(tmp_path: Path) -> None:
    cache, module = tmp_path / "cache", tmp_path / "module"
    old, new = provider(cache, "hashicorp/aws", "5.0.0"), provider(cache, "hashicorp/aws", "6.0.0")
    other = provider(cache, "hashicorp/google", "8.0.0")
    links = module / ".terraform" / "providers"
    assert drop_damaged(cache, module, "the cloud is down") == []
    provider(links, "hashicorp/aws", "6.0.0")
    assert drop_damaged(cache, module, "Failed to load hashicorp/aws: exec format error") == [
        "hashicorp/aws/6.0.0/linux_amd64"
    ]
    assert (old.exists(), new.exists(), other.exists(), links.exists()) == (True, False, True, False)
    assert drop_damaged(cache, module, "hashicorp/aws") == ["hashicorp/aws/5.0.0/linux_amd64"]


def test_a_mirror_that_the_cache_leads_to_is_let_be(tmp_path: Path) -> None:
    mirror = provider(tmp_path / "mirror", "hashicorp/aws", "6.0.0")
    link = tmp_path / "cache" / "registry.terraform.io" / "hashicorp" / "aws" / "6.0.0" / "linux_amd64"
    link.parent.mkdir(parents=True)
    link.symlink_to(mirror)
    assert drop_damaged(tmp_path / "cache", tmp_path, "hashicorp/aws") == []
    assert mirror.exists()


# ---------------------------------------------------------------- the folder


def test_a_folder_is_private_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with private_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "output", "tmp"]
        assert stat.S_IMODE((folder / ".lock").stat().st_mode) == 0o600
        assert lock_of(folder) is not None
        assert lock_of(tmp_path) is None
        with private_folder() as second:
            assert folder.exists(), "somebody works in it"
            assert second != folder
    assert list(tmp_path.iterdir()) == []
    assert lock_of(folder) is None


def test_what_a_killed_run_left_is_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("RAY_PROVIDER_KEPT_STATES", str(tmp_path / "kept"))
    left, making, others = (tmp_path / name for name in ("airflow-ray-tf-1", "airflow-ray-tf-2", "other-3"))
    for folder in (left, making, others):
        folder.mkdir()
    for folder in (left, others):
        (folder / ".lock").touch()
    (left / "errored.tfstate").write_text("{}")
    (left / ".identity.json").write_text('{"key": "abc"}')
    with private_folder():
        assert (left.exists(), making.exists(), others.exists()) == (False, True, True)
    assert [path.read_text() for path in (tmp_path / "kept" / "abc").glob("*.tfstate")] == ["{}"]


# ---------------------------------------------------------------- the state


def resources(*items: dict[str, Any], **outputs: Any) -> StateView:
    base = {"mode": "managed", "name": "x", "provider": 'provider["registry.terraform.io/hashicorp/aws"].eu'}
    told = {"serial": 7, "resources": [{**base, **item} for item in items], "outputs": outputs}
    return StateView.from_text(json.dumps(told))


def test_a_state_is_read_without_a_module() -> None:
    found = resources(
        {"type": "aws_vpc", "instances": [{"attributes": {"id": "v"}}]},
        {"type": "aws_eip", "module": "module.m", "instances": [{"index_key": 0}, {"index_key": "a"}]},
        {"type": "aws_sg", "instances": [{"attributes": {}}, {"deposed": "d", "attributes": {}}]},
        {"type": "aws_ami", "mode": "data", "instances": [{}]},
        name={"value": "c"},
        secret={"value": "planted", "sensitive": True},
    )
    assert found.addresses == ["aws_vpc.x", "module.m.aws_eip.x[0]", 'module.m.aws_eip.x["a"]', "aws_sg.x"]
    assert dict(found.outputs) == {"name": "c"}
    assert found.providers == {"registry.terraform.io/hashicorp/aws"}
    assert found.resources[0].text("id") == "v"
    assert found.resources[0].text("none") == ""
    assert StateView.from_text("  \n") == StateView()


@pytest.mark.parametrize("text", ["planted", "[]", '{"resources": 1}', '{"resources": [{"mode": "managed"}]}', "{}"])
def test_what_is_no_state_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(BackendError, match="what lies there is no state of Terraform") as caught:
        StateView.from_text(text)
    assert "planted" not in str(caught.value)
    assert caught.value.data["field"] == "backend"


ARN = "arn:aws:ec2:{}:{}:vpc/v"


def test_where_and_whose_resources_are() -> None:
    def one(kind: str, **values: Any) -> StateResource:
        return StateResource("a.b", kind, values=values)

    arn = ARN.format("eu-west-1", "123456789012")
    assert (one("aws_vpc", arn=arn).region, one("aws_vpc", arn=arn).account) == ("eu-west-1", "123456789012")
    assert one("aws_vpc", arn=arn, region="us-east-1").region == "us-east-1"
    assert one("aws_x", region="us-east-1").region is None, "without an ARN it is an argument of another kind"
    role = one("aws_iam_role", arn="arn:aws:iam::123456789012:role/r")
    assert (role.region, role.account) == (None, "123456789012")
    bucket = one("aws_s3_bucket", arn="arn:aws:s3:::b")
    assert (bucket.region, bucket.account) == (None, None)
    assert (one("google_x", project="p").account, one("google_x").account, one("google_x").region) == ("p", None, None)
    assert (one("other_x", arn=arn).region, one("other_x", project="p").account) == (None, None)


def test_the_place_of_a_state_is_that_of_most_of_it() -> None:
    def vpc(region: str, account: str) -> StateResource:
        return StateResource("a", "aws_vpc", values={"arn": ARN.format(region, account)})

    many = StateView(resources=(vpc("a", "1" * 12), vpc("b", "2" * 12), vpc("b", "2" * 12)))
    assert (many.regions, many.accounts) == (("b", "a"), ("2" * 12, "1" * 12))
    cluster = StateResource("k", "aws_eks_cluster", values={"arn": ARN.format("c", "1" * 12), "name": "k"})
    view = StateView(resources=(*many.resources, cluster))
    assert view.regions == ("c",), "the cluster's"
    assert view.cluster_name == "k"
    assert StateView(resources=(cluster,), outputs={"cluster_name": "out"}).cluster_name == "out"
    assert StateView(outputs={"cluster_name": ""}).cluster_name is None
    assert not view.protected


@pytest.mark.parametrize(
    ("address", "kind", "values", "protected"),
    [
        ("terraform_data.deletion_guard", "terraform_data", {"input": True}, True),
        ("terraform_data.deletion_guard", "terraform_data", {"input": {"value": True}}, True),
        ("terraform_data.deletion_guard", "terraform_data", {"input": {"value": False}}, False),
        ("terraform_data.other", "terraform_data", {"input": True}, False),
        ("google_container_cluster.c", "google_container_cluster", {"deletion_protection": True}, True),
        ("google_container_cluster.c", "google_container_cluster", {"deletion_protection": "true"}, False),
        ("google_sql.c", "google_sql", {"deletion_protection": True}, False),
    ],
)
def test_what_protects_a_state(address: str, kind: str, values: dict[str, Any], protected: bool) -> None:
    assert StateView(resources=(StateResource(address, kind, values=values),)).protected is protected


def test_a_state_that_names_other_peoples_providers_is_refused() -> None:
    fine = {"registry.terraform.io/hashicorp/aws", "registry.opentofu.org/hashicorp/google-beta"}
    check_providers(StateView(providers=frozenset({*fine, "terraform.io/builtin/terraform"})))
    for name in ("registry.terraform.io/evil/aws", "evil.com/x/hashicorp/aws", "terraform.io/builtin/other"):
        with pytest.raises(BackendError, match=f"wants the provider {name}") as caught:
            check_providers(StateView(providers=frozenset({*fine, name})))
        assert caught.value.data["field"] == "backend"


# ---------------------------------------------------------------- backend and spec


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, "backend"),
        ({"bucket": "b"}, "backend"),
        ({"type": 5}, "backend"),
        ({"type": "magic"}, "backend.type"),
        ({"type": "s3", "bucket": "b"}, "backend.key"),
        ({"type": "s3", "bucket": " ", "key": "k"}, "backend.bucket"),
        ({"type": "gcs"}, "backend.bucket"),
        ({"type": "local"}, "backend.path"),
        ({"type": "local", "path": "x"}, "backend.path"),
        ({"type": "local", "path": "/x", "workspace_dir": "w"}, "backend.workspace_dir"),
    ],
)
def test_a_backend_that_can_not_be_is_refused_by_its_field(value: Any, field: str) -> None:
    with pytest.raises(BackendError) as caught:
        Backend.parse(value)
    assert caught.value.data["field"] == field


def test_a_backend_in_words_and_in_a_region(tmp_path: Path) -> None:
    s3 = Backend.parse({"type": "s3", "bucket": "b", "key": "k"})
    assert s3.label == "s3 b/k"
    assert Backend.parse({"type": "gcs", "bucket": "b", "prefix": "p"}).label == "gcs b/p"
    assert s3.in_region("r").config["region"] == "r"
    assert s3.in_region(None) is s3
    assert Backend("s3", {"region": "own"}).in_region("r").config["region"] == "own"
    assert Backend("gcs", {}).in_region("r").config == {}
    local = Backend.parse({"type": "local", "path": str(tmp_path / "a" / "x")})
    local.prepare()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert list((tmp_path / "a").iterdir()) == []
    s3.prepare()
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match="can't be made or written") as caught:
        Backend.parse({"type": "local", "path": str(tmp_path / "file" / "x")}).prepare()
    assert caught.value.data["field"] == "backend.path"
    assert Backend("s3", {"kms_encryption_key": "a", "access_key": "planted"}).secrets() == ["planted"]


def spec(**changes: Any) -> InfrastructureSpec:
    return InfrastructureSpec(**{"module": "eks", "backend": {"type": "local", "path": "/x"}, **changes})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"module": "not/absolute"}, "module"),
        ({"backend": {}}, "backend"),
        ({"variables": [1]}, "variables"),
        ({"providers": {1: 2}}, "providers"),
        ({"env": {"a": {1}}}, "env"),
        ({"files": "x"}, "files"),
        ({"sensitive_variables": {"a": object()}}, "sensitive_variables"),
        ({"workspace": "-x"}, "workspace"),
        ({"workspace": ""}, "workspace"),
        ({"workspace": "x" * 91}, "workspace"),
        ({"lock_timeout": "60"}, "lock_timeout"),
        ({"parallelism": 0}, "parallelism"),
        ({"parallelism": 257}, "parallelism"),
        ({"parallelism": True}, "parallelism"),
    ],
)
def test_what_a_run_is_told_is_checked_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        spec(**change).validate()
    assert caught.value.data["field"] == field


def test_what_a_run_may_be_told() -> None:
    spec().validate()
    spec(workspace="x" * 90, lock_timeout="500ms", parallelism=1).validate()
    spec(lock_timeout="1h", parallelism=256).validate()
    with pytest.raises(VariableError, match="both give a, b") as caught:
        spec(variables={"b": 1, "a": 1, "c": 1}, sensitive_variables={"a": 1, "b": 1}).validate()
    assert caught.value.data["variables"] == ["a", "b"]


# ---------------------------------------------------------------- the plugin for kubeconfigs


def test_the_plugin_prints_a_credential_for_eks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        eks, "eks_token", lambda cluster: asked.append(cluster) or Token("t", RENEW_BEFORE_SECONDS + 60)
    )
    given = ["eks", "--name", "c", "--region", "r", "--role-arn", "arn:r", "--profile", "p"]
    assert exec_plugin.main(given) == 0
    assert asked == [eks.EksCluster("c", "r", role_arn="arn:r", profile="p")]
    assert tuple(given) == asked[0].arguments()
    assert json.loads(capsys.readouterr().out) == {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "t", "expirationTimestamp": "1970-01-01T00:01:00Z"},
    }


def test_the_plugin_prints_one_for_gke_or_says_why_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(gke, "gke_token", lambda cluster: asked.append(cluster) or Token("t", 9e9))
    given = ["gke", "--name", "c", "--location", "l", "--project", "p", "--impersonate", "sa"]
    assert exec_plugin.main(given) == 0
    assert asked == [gke.GkeCluster("c", "l", "p", impersonate="sa")]
    assert tuple(given) == asked[0].arguments()
    assert asked[0].path == "projects/p/locations/l/clusters/c"
    capsys.readouterr()

    def refuse(_: Any) -> Token:
        raise ConfigurationError("no such cluster")

    monkeypatch.setattr(gke, "gke_token", refuse)
    assert exec_plugin.main(given[:7]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "no such cluster\n")


@pytest.mark.parametrize("missing", ["--name", "--region", "--location", "--project"])
def test_the_plugin_wants_to_know_which_cluster(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"eks": ("--name", "--region"), "gke": ("--name", "--location", "--project")}
    for cloud, options in whole.items():
        if missing in options:
            given = [word for option in options if option != missing for word in (option, "x")]
            with pytest.raises(SystemExit):
                exec_plugin.main([cloud, *given])
            assert f"required: {missing}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        exec_plugin.main([])
