"""Mutants that no test of these layers can notice, each with the reason. They count as survivors all the same."""

from __future__ import annotations

from tests.mutation.mutants import Mutant

#: (end of the file's path, text of the changed line) → why.
REASONS: dict[tuple[str, str], str] = {
    (
        "kuberay/account.py",
        "response.status < 300",
    ): "equivalent: redirects are refused before, and nothing sends a 300",
    ("local/head.py", "for _ in range(5)"): "equivalent: how often a thing that works is done again",
    (
        "kuberay/readiness.py",
        "self._looked_at.pop(uid, None)",
    ): "a pod that went is looked at again 15 s later or sooner",
    (
        "helm/fetch.py",
        "usable = parts.scheme in _PORTS",
    ): "tests/security/test_fetched.py has the row; that layer is not run here",
    ("functions/results.py", "strict=True"): "equivalent: both lists are made of the same lines",
    ("lifecycle/waiting.py", "_DASHBOARD_PAUSE = "): "how often a dashboard is asked: a second more or less",
    ("watch/watcher.py", "_SILENCE_SECONDS = "): "how long a silence is worth no line: a second more or less",
    ("watch/logs.py", "interval: float = "): "how often Ray looks at a file that it sends: a second more or less",
    ("watch/logs.py", "_TAIL_LINES = "): "how much of a log's end is fetched at once: a line more or less",
    ("local/head.py", '"PYTHONUNBUFFERED": '): "equivalent: to Python, any text means yes",
    ("terraform/process.py", "if self._reader is not None"): "equivalent: it has ended when the keeper has",
    ("terraform/process.py", "if keeper.stdout is not None"): "equivalent but for a descriptor, until its object goes",
    ("sensors/cluster.py", "scheduling_timeout_seconds: float = "): "a default of five minutes: a second more or less",
    ("functions/from_source.py", "type_params"): "of Python 3.12 and newer alone",
    ("_shared/retry.py", "min(attempt - 1, 30)"): "equivalent: the longest delay is reached long before",
    ("kubernetes/client.py", "response.status >= _REDIRECT"): "equivalent: nothing sends a 300",
    ("kuberay/endpoints.py", 'entry.get("hostname")'): "tests/security/test_credentials.py has the row; not run here",
    ("kuberay/endpoints.py", "Way = Literal"): "a type, which mypy looks at",
    ("kuberay/operator.py", "wait_operator(kube, chart.namespace"): "tests/kubernetes has the row; pods are needed",
    ("operators/job.py", "poll_interval: float | str = "): "how often Ray is asked: a second more or less",
    ("lifecycle/setup.py", "pods are replaced, as their spec changed"): "tests/kubernetes has the row; pods are needed",
    ("lifecycle/spec.py", "is_named: bool = "): "a default that no task leaves out",
    ("watch/levels.py", "at: float = "): "equivalent: the room is full at first, whatever the time",
    (
        "functions/runner.py",
        "kinds <= {str, int, bool, type(None)}",
    ): "a short cut: what does not take it ends the same",
    ("_compat/__init__.py", "TaskInstance."): "Airflow 2 alone: tests/compat runs it",
    ("_compat/__init__.py", "_ASKING.discard("): "equivalent but for some memory of a process that ends",
}


def reason_of(mutant: Mutant) -> str:
    """Give why a mutant survives, where that is known."""
    changed = mutant.diff
    for (path, text), reason in REASONS.items():
        if mutant.path.endswith(path) and text in changed:
            return f"({reason})"
    return ""
