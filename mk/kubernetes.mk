# The Kubernetes that tests run on (tests/kubernetes/node/README.md). KUBERAY_VERSION chooses another KubeRay.
NODE := $(BIN)/python -m tests.kubernetes.node
KUBERAY_MATRIX ?= 1.4.2 1.5.1

.PHONY: kubernetes-build
kubernetes-build: $(VENV)/.installed ## build the test Kubernetes into the cache (about 15 minutes from nothing)
	@$(NODE) build

.PHONY: kubernetes-up
kubernetes-up: $(VENV)/.installed ## start a Kubernetes with KubeRay and Ray, which stays until kubernetes-down
	@$(NODE) up

.PHONY: kubernetes-down
kubernetes-down: $(VENV)/.installed ## end it, leaving nothing
	@$(NODE) down

.PHONY: test-kuberay-matrix
test-kuberay-matrix: $(VENV)/.installed ## clusters with each older KubeRay, and what those lack
	@for version in $(KUBERAY_MATRIX); do \
	  echo "== KubeRay $$version"; \
	  KUBERAY_VERSION=$$version $(NODE) build; \
	  KUBERAY_VERSION=$$version $(RUN) tests/kubernetes/test_clusters_kuberay_versions.py; \
	done
