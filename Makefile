# Every target sets itself up. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
UV_VERSION := 0.13.9
PIP_AUDIT_VERSION := 2.10.1
VENV := .venv
BIN := $(VENV)/bin
RUN := scripts/isolated $(BIN)/python -m pytest
# AIRFLOW_RAY_TESTS=all: also the tests that are marked slow, and longer forms of some.
export AIRFLOW_RAY_TESTS ?=
SHORT = $(if $(filter all,$(AIRFLOW_RAY_TESTS)),,-m "not slow")
export AIRFLOW_RAY_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/airflow-ray
# Half of what lint takes is Airflow's types; mypy goes by contents, so each clone may use it.
export MYPY_CACHE_DIR ?= $(AIRFLOW_RAY_CACHE)/mypy
# Go's garbage collector takes a fifth of the CPU time of Terraform, Helm and kubectl, which end before they need it.
export GOGC ?= 400
export AIRFLOW__CORE__LOAD_EXAMPLES := False
unexport RAY_ADDRESS RAY_AUTH_TOKEN RAY_AUTH_MODE
# Where it is set, each process compiles Airflow and Ray anew: most of the CPU time of all tests.
unexport PYTHONDONTWRITEBYTECODE

include $(wildcard mk/*.mk)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-24s %s\n", $$1, $$2}'

# ---------------------------------------------------------------- environments
# $(call venv,FOLDER,LOCK): a virtual environment with what the lock names, and this project in it.
define venv
	@test -x $(1)/bin/uv || { rm -rf $(1); $(PYTHON) -m venv $(1) && $(1)/bin/python -m pip install -q --disable-pip-version-check "uv==$(UV_VERSION)"; }
	@$(1)/bin/uv pip install -q --python $(1)/bin/python --require-hashes -r $(2)
	@$(1)/bin/uv pip install -q --python $(1)/bin/python --no-deps --editable .
	@touch $(1)/.installed
endef

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@echo "== environment $(VENV): about a minute the first time"
	$(call venv,$(VENV),requirements/dev.txt)

.venv-airflow-%/.installed: requirements/airflow-%.txt pyproject.toml
	@echo "== environment with Airflow $*"
	$(call venv,.venv-airflow-$*,requirements/airflow-$*.txt)

.venv-storage/.installed: requirements/storage.txt pyproject.toml
	@echo "== environment with the clients of S3 and of Cloud Storage"
	$(call venv,.venv-storage,requirements/storage.txt)

# PYTHON has to be that one: tests/compat/matrix.py finds it.
.venv-airflow-3.3-py%/.installed: requirements/airflow-3.3.txt pyproject.toml
	@echo "== environment with Airflow 3.3 and Python $*"
	$(call venv,.venv-airflow-3.3-py$*,requirements/airflow-3.3.txt)

.PHONY: setup
setup: $(VENV)/.installed ## make the development environment (.venv)

.PHONY: lock
lock: $(VENV)/.installed ## compile the lock files anew
	@scripts/lock

# ---------------------------------------------------------------- running it
.PHONY: demo
demo: $(VENV)/.installed ## a real Airflow runs a Ray job on a Ray of its own, and shows the result
	@$(BIN)/ray-provider demo

.PHONY: airflow
airflow: $(VENV)/.installed ## the same Airflow, left up with the example DAGs, until Ctrl-C
	@$(BIN)/ray-provider demo --keep-web

# ---------------------------------------------------------------- tests
.PHONY: test
# Stages beside each other, with one report: tests/lanes.py. STAGES="lint test-unit" runs some of them.
test: $(VENV)/.installed system ## what has to pass before a change lands
	@$(BIN)/python -m tests.lanes $(STAGES)

.PHONY: test-all
test-all: $(VENV)/.installed system ## the same with the slow tests, and the oldest Airflows
	@$(BIN)/python -m tests.lanes --all $(STAGES)

# What more than one stage needs: made once, before them.
.PHONY: test-tools
test-tools: $(VENV)/.installed .venv-peer/.installed
	@$(BIN)/python -m tests.support.helm
	@$(BIN)/python -m tests.support.terraform

.PHONY: system
system: ## what the tests need of the operating system (installs Debian packages if root)
	@scripts/system-packages

.PHONY: lint
lint: $(VENV)/.installed ## ruff, pydoclint, mypy, import contracts, bandit
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/flake8 provider/ray_provider
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/bandit -q -c pyproject.toml -r provider

.PHONY: audit
audit: $(VENV)/.installed ## bandit over our code, and known vulnerabilities of what the lock names (asks PyPI)
	@echo "== audit"
	@$(BIN)/bandit -q -c pyproject.toml -r provider
	@$(BIN)/uv tool run --from "pip-audit==$(PIP_AUDIT_VERSION)" pip-audit --strict --disable-pip --require-hashes -r requirements/dev.txt

.PHONY: release-check
release-check: $(VENV)/.installed ## what grows old by the calendar: before a release, never in the tests
	@$(BIN)/python scripts/eks_support.py

.PHONY: format
format: $(VENV)/.installed ## put the code in form
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

.PHONY: test-unit
test-unit: $(VENV)/.installed ## seconds: no server but doubles on loopback
	@echo "== unit tests"
	@$(RUN) tests/unit

.PHONY: test-helm
test-helm: $(VENV)/.installed ## the chart, with Helm 3 and Helm 4
	@echo "== chart tests"
	@$(BIN)/python -m tests.support.helm
	@$(RUN) tests/helm

.PHONY: test-integration
test-integration: $(VENV)/.installed system ## a real Ray and a real Airflow
	@echo "== integration tests"
	@$(BIN)/python -m tests.support.terraform
	@$(RUN) tests/integration $(SHORT)

.PHONY: test-security
test-security: $(VENV)/.installed .venv-peer/.installed system ## credentials, boundaries, fuzzing in short, and secrets looked for after a run on a real Airflow
	@echo "== security tests"
	@$(BIN)/python -m tests.support.helm
	@$(BIN)/python -m tests.support.terraform
	@$(RUN) tests/security tests/fuzz

# Seconds for each property of tests/fuzz: about ten minutes in all.
FUZZ_SECONDS ?= 33
.PHONY: test-fuzz
test-fuzz: $(VENV)/.installed ## ten minutes of made-up input for what reads input
	@AIRFLOW_RAY_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/fuzz --timeout=900

.PHONY: test-faults
test-faults: $(VENV)/.installed system ## every fault in every state of a task
	@echo "== fault matrix"
	@$(RUN) tests/faults $(SHORT)

.PHONY: test-celery
test-celery: $(VENV)/.installed system ## Celery workers that end while their tasks wait for jobs
	@echo "== Celery"
	@scripts/system-packages redis-server
	@$(RUN) tests/celery

.PHONY: test-storage
test-storage: .venv-storage/.installed system ## code and results by S3 and Cloud Storage, on servers that speak as they do
	@echo "== object storage"
	@scripts/isolated .venv-storage/bin/python -m pytest tests/storage

# COMPAT="airflow-3.1 airflow-3.3-py3.13" runs some of the Airflows.
COMPAT ?=
.PHONY: test-compat
test-compat: $(VENV)/.installed .venv-peer/.installed ## astro-provider-ray's DAGs, the oldest Airflows that are supported, and the newest on newer Pythons
	@echo "== a drop-in for astro-provider-ray"
	@$(BIN)/python -m pytest tests/compat/test_drop_in.py
	@echo "== Airflow 2.11, 3.1 and 3.3"
	@$(BIN)/python -m tests.compat.matrix $(COMPAT)

.PHONY: test-infrastructure
test-infrastructure: $(VENV)/.installed control-plane-build ## Terraform without a cloud
	@echo "== infrastructure tests"
	@$(BIN)/python -m tests.support.helm
	@$(BIN)/python -m tests.support.terraform
	@$(if $(filter all,$(AIRFLOW_RAY_TESTS)),$(BIN)/python -m tests.support.karpenter)
	@$(if $(filter all,$(AIRFLOW_RAY_TESTS)),$(BIN)/python -m tests.support.trivy)
	@scripts/isolated $(BIN)/python -m tests.infrastructure $(SHORT)

.PHONY: test-trivy
test-trivy: $(VENV)/.installed ## what Trivy says of the Terraform modules; its scanner is built once from its Go module
	@echo "== Trivy"
	@$(BIN)/python -m tests.support.trivy
	@$(RUN) tests/infrastructure/test_trivy.py

.PHONY: test-opentofu
test-opentofu: $(VENV)/.installed ## the runner, the operators and a module on OpenTofu, built from its Go module
	@echo "== OpenTofu"
	@$(BIN)/python -m tests.support.helm
	@$(BIN)/python -m tests.support.terraform
	@tofu="$$($(BIN)/python -m tests.support.terraform opentofu)" && TERRAFORM_BINARY="$$tofu" $(RUN) $(addprefix tests/infrastructure/test_,runner.py runner_interrupt.py runner_secrets.py state_rescue.py operators.py bad_input.py gke_apply.py eks_apply.py)

.PHONY: test-kubernetes
test-kubernetes: $(VENV)/.installed system kubernetes-build ## a real Kubernetes with KubeRay
	@echo "== Kubernetes tests"
	@$(BIN)/python -m tests.support.terraform
	@$(if $(SHORT),,$(BIN)/python -m tests.kueue)
	@$(RUN) tests/kubernetes $(SHORT)

# ---------------------------------------------------------------- benchmarks
.venv-peer/.installed: requirements/peer.txt
	@echo "== environment of the peer (astro-provider-ray)"
	@test -x .venv-peer/bin/uv || { rm -rf .venv-peer; $(PYTHON) -m venv .venv-peer && .venv-peer/bin/python -m pip install -q --disable-pip-version-check "uv==$(UV_VERSION)"; }
	@.venv-peer/bin/uv pip install -q --python .venv-peer/bin/python --require-hashes -r requirements/peer.txt
	@touch $@

.PHONY: bench
bench: $(VENV)/.installed .venv-peer/.installed ## the peer and us, in one run
	@scripts/isolated $(BIN)/python -m benchmarks.run

.PHONY: clean
clean: ## remove what the targets made in this folder (not the cache)
	@rm -rf .venv .venv-* .lanes .airflow-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
