"""Every piece of code in the documentation is executed, checked as far as that goes, or says why it is not.

The first one of the README runs on a real Airflow and Ray: tests/integration/test_local_dag.py.
"""

from __future__ import annotations

import json
import re
import subprocess
from importlib.util import find_spec

import pytest
import yaml
from airflow.sdk import DAG

from ray_provider import operators
from tests.support.requirements import need
from tests.support.snippets import DOCUMENTS, ROOT, WAYS, Snippet, snippets

ALL = snippets()
MAKEFILES = "\n".join(path.read_text() for path in [ROOT / "Makefile", *(ROOT / "mk").glob("*.mk")])


def of(*languages: str) -> list:
    return [pytest.param(one, id=one.name) for one in ALL if one.language in languages and not one.reason]


def test_all_of_them_are_found_and_something_is_done_with_each():
    assert len(ALL) >= sum(path.read_text().count("\n```") for path in (ROOT / "docs").glob("*.md")) // 2
    assert [one.name for one in ALL if not one.way] == []
    assert {one.language for one in ALL if not one.reason} <= WAYS.keys()


@pytest.mark.parametrize("snippet", of("python"))
def test_python_is_executed(snippet: Snippet):
    """As it stands: only where a snippet imports nothing, the operators are there."""
    names = {} if "import" in snippet.code else {name: getattr(operators, name) for name in operators.__all__}
    with DAG("snippet", schedule=None) as dag:
        exec(compile(snippet.code, snippet.name, "exec"), names)
    made = [value for value in names.values() if isinstance(value, DAG)] or [dag]
    assert "@dag" in snippet.code or any(one.task_dict for one in made) or "@task" in snippet.code


@pytest.mark.parametrize("snippet", of("bash", "sh", "console"))
def test_a_shells_lines_name_what_is_there(snippet: Snippet):
    code = snippet.code
    if snippet.language == "console":
        code = "\n".join(re.findall(r"^\$ (.*)$", code, re.MULTILINE))
    assert code.strip()
    checked = subprocess.run(["bash", "-n"], input=code, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    for target in re.findall(r"^ *make ([a-z-]+)", code, re.MULTILINE):
        assert re.search(rf"^{target}:", MAKEFILES, re.MULTILINE), target
    for folder in re.findall(r"(?:^| )((?:terraform|helm|examples|docs|scripts)/[\w./-]+)", code, re.MULTILINE):
        assert (ROOT / folder).exists(), folder
    for command in re.findall(r"^ *ray-provider ([a-z]+)", code, re.MULTILINE):
        assert_is_subcommand(command)


def assert_is_subcommand(name: str) -> None:
    from ray_provider.cli import main

    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize("snippet", of("yaml", "json", "hcl"))
def test_what_is_data_is_read(snippet: Snippet):
    if snippet.language == "hcl":
        need("python-hcl2", present=find_spec("hcl2") is not None, how="It is in the extra terraform-test.")
        import hcl2

        assert hcl2.loads(snippet.code)
    else:
        assert list(yaml.safe_load_all(snippet.code)) if snippet.language == "yaml" else json.loads(snippet.code)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_inside_the_repository_leads_somewhere(document: str):
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / document).read_text()):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        if link.startswith(("http", "<")):
            continue
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor and target.is_file() else []
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors):
            wrong.append(link)
    assert not wrong


def test_code_whose_names_are_not_there_fails():
    wrong = Snippet("x.md", 1, "python", "import ray_provider\nsetup >> job\n")
    with pytest.raises(NameError):
        test_python_is_executed(wrong)
