"""One Airflow, one Ray head with and one without a token for all integration tests, started when the first test asks."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_provider.testing import AirflowStack
from tests.infrastructure.runner_modules import Module, make_module
from tests.support.ray_head import RayHead
from tests.support.snippets import snippets
from tests.support.terraform import find_terraform

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples" / "dags"

#: Tests of these use what is shared. They come last, so that it does not stand idle beside the others, which costs, too.
SHARING = (
    "test_bad_input",
    "test_jobs_real_ray",
    "test_dag_functions",
    "test_dag_job_outcomes",
    "test_dag_infrastructure",
    "test_local_dag",
    "test_examples",
)

#: Those that run on the local backend; test_demo.py runs the quickstart.
LOCAL_EXAMPLES = (
    "taskflow",
    "large_result",
    "job_of_its_own",
    "serve",
    "shared_cluster",
    "etl",
    "train",
    "batch_inference",
    "model_ops",
)

#: DAGs that only slow tests run: without those nobody has to read them.
OF_SLOW_TESTS = (
    "function_dags/at_the_edges.py",
    "peer_dags/old_paths.py",
    *(f"examples/ray_{name}.py" for name in LOCAL_EXAMPLES if name != "shared_cluster"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those that share an Airflow and a Ray beside each other."""
    items.sort(key=lambda item: SHARING.index(item.path.stem) if item.path.stem in SHARING else -1)


@pytest.fixture(scope="session")
def open_ray_head() -> Iterator[RayHead]:
    """A Ray head that wants no token."""
    with RayHead() as head:
        yield head


@pytest.fixture(scope="session")
def token_ray_head() -> Iterator[RayHead]:
    """A Ray head that wants a token."""
    with RayHead(token=secrets.token_hex(16)) as head:
        yield head


# Without one: the head of test_a_restarted_head_loses_its_jobs_… in test_dag_job_outcomes.py is open, too.
@pytest.fixture(params=["token", pytest.param("open", marks=pytest.mark.slow)])
def ray_head(request: pytest.FixtureRequest) -> RayHead:
    """A real Ray head: every test that asks for it runs with and, among the slow ones, without a token."""
    head: RayHead = request.getfixturevalue(f"{request.param}_ray_head")
    return head


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Module:
    """A Terraform module for DAGs, with the folder of its states."""
    return make_module(tmp_path_factory.mktemp("module"))


@pytest.fixture(scope="session")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tasks that run Terraform put their private files."""
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="session")
def shared_stack(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    token_ray_head: RayHead,
    module: Module,
    temporary: Path,
) -> Iterator[AirflowStack]:
    """An Airflow that knows the DAGs of these tests: a start alone takes three quarters of a minute of CPU time."""
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    terraform = find_terraform()
    folders = ["dags", "function_dags", "peer_dags", "dags_local_backend"]
    for folder in [*folders, "dags_infrastructure"] if terraform else folders:
        shutil.copytree(HERE / folder, dags / folder, ignore=shutil.ignore_patterns("__pycache__"))
    examples = dags / "examples"
    shutil.copytree(EXAMPLES / "include", examples / "include", ignore=shutil.ignore_patterns("__pycache__"))
    for name in LOCAL_EXAMPLES:
        shutil.copy(EXAMPLES / f"ray_{name}.py", examples)
    if not any(item.get_closest_marker("slow") for item in request.session.items):
        for name in OF_SLOW_TESTS:
            (dags / name).unlink()
    [first, *_] = (one for one in snippets("README.md") if one.language == "python")
    (dags / "readme.py").write_text(first.code)
    env = {
        "TEST_MODULE": str(module.folder),
        "TEST_STATE": str(module.state.parent),
        "TEST_TERRAFORM": str(terraform.path) if terraform else "",
        "TEST_PRIVATE": str(temporary),
        "RAY_EXAMPLE_STORE": f"file://{home}/store",
        "RAY_EXAMPLE_LOCAL_QUEUE": "team",
        # What is larger than this goes through object storage.
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{home}/xcom",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "2000000",
    }
    # Each file is read once: none changes.
    config = {"core": {"parallelism": "5"}, "dag_processor": {"min_file_process_interval": "7200"}}
    with AirflowStack(home, dags_folder=dags, env=env, config=config) as stack:
        for conn_id in ("ray_jobs", "ray_functions"):
            address = {"address": token_ray_head.url}
            stack.client.add_connection(conn_id, "ray", password=token_ray_head.token, extra=address)
        for conn_id in ("ray_default", "ray_conn"):
            stack.client.add_connection(conn_id, "ray", extra={"backend": "local"})
        yield stack
        left = [path for path in stack.local_ray_home.glob("*") if path.is_dir()]
        assert not left, "each run's cluster is deleted"
    assert not stack.leftovers
