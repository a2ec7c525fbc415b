# What is published: the wheel as a stranger installs it, and the source distribution. STRANGERS: minor versions of Python 3.
STRANGERS ?= 11 13
TWINE_VERSION := 7.0.0
PYROMA_VERSION := 5.0.1

.PHONY: test-wheel
test-wheel: $(VENV)/.installed ## the built wheel in an empty home (pip, examples, quickstart, demo), and the sdist's unit tests
	@rm -rf dist && $(BIN)/uv build --quiet --out-dir dist
	@$(BIN)/uv tool run --from "twine==$(TWINE_VERSION)" twine check --strict dist/*
	@$(BIN)/uv tool run --from "pyroma==$(PYROMA_VERSION)" pyroma --min=8 dist/*.tar.gz
	@for minor in $(STRANGERS); do \
	  python="$$($(BIN)/python -c "from tests.support.pythons import find_python; print(find_python($$minor) or '')")"; \
	  test -n "$$python" || { echo "no Python 3.$$minor here"; exit 1; }; \
	  WHEEL="$$(echo dist/*.whl)" scripts/stranger "$$python"; \
	done
	@$(MAKE) --no-print-directory test-sdist

.PHONY: test-sdist
test-sdist: $(VENV)/.installed ## the unit tests, out of the source distribution
	@rm -rf dist/unpacked && mkdir -p dist/unpacked
	@test -e dist/*.tar.gz || $(BIN)/uv build --quiet --sdist --out-dir dist
	@tar -xzf dist/*.tar.gz -C dist/unpacked --strip-components=1
	@cd dist/unpacked && PYTHONPATH=provider $(CURDIR)/scripts/isolated $(CURDIR)/$(BIN)/python -m pytest -q -p no:cacheprovider tests/unit

.PHONY: pictures
pictures: $(VENV)/.installed ## the documentation's pictures anew, from a real Airflow in a headless Chromium
	@scripts/system-packages chromium
	@scripts/isolated $(BIN)/python scripts/pictures.py
