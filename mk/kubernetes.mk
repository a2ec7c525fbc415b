# The Kubernetes that tests run on (tests/kubernetes/node/README.md). KUBERAY_VERSION chooses another KubeRay.
NODE := $(BIN)/python -m tests.kubernetes.node
KUBERAY_MATRIX ?= 1.4.2 1.5.1 1.6.2

.PHONY: kubernetes-build
kubernetes-build: $(VENV)/.installed ## build the test Kubernetes into the cache (about 15 minutes from nothing)
	@$(NODE) build

.PHONY: control-plane-build
control-plane-build: $(VENV)/.installed ## build the API server, etcd and the operator of tests/apiserver into the cache
	@$(BIN)/python -m tests.apiserver

.PHONY: test-apiserver
test-apiserver: $(VENV)/.installed control-plane-build ## clusters on a real API server without nodes, with KubeRay's CRDs
	@echo "== API server tests"
	@$(RUN) tests/apiserver $(SHORT)

.PHONY: test-kueue
test-kueue: $(VENV)/.installed control-plane-build ## queues, by a real Kueue (its build takes five minutes the first time)
	@echo "== Kueue"
	@$(BIN)/python -m tests.kueue
	@$(RUN) tests/kueue $(SHORT)

.PHONY: kubernetes-up
kubernetes-up: $(VENV)/.installed ## start a Kubernetes with KubeRay and Ray, which stays until kubernetes-down
	@$(NODE) up

.PHONY: kubernetes-down
kubernetes-down: $(VENV)/.installed ## end it, leaving nothing
	@$(NODE) down

.PHONY: test-kuberay-matrix
test-kuberay-matrix: $(VENV)/.installed ## clusters and RayJobs with each other KubeRay, and what older ones lack
	@for version in $(KUBERAY_MATRIX); do \
	  echo "== KubeRay $$version"; \
	  KUBERAY_VERSION=$$version $(NODE) build; \
	  KUBERAY_VERSION=$$version $(RUN) tests/kubernetes/test_clusters_kuberay_versions.py; \
	done
