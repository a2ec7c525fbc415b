# Do the tests notice when the code is broken? Mutants drawn by a seed; unit and API server tests on each.
# SEED=20260101 draws that day's; MUTANTS="--part 1/4 --map FOLDER" runs a quarter, and keeps what was measured.
SEED ?= $(shell date +%Y%m%d)
MUTANTS ?=

.PHONY: mutants
mutants: $(VENV)/.installed control-plane-build ## break the code in 60 places, and see whether a test notices (about an hour)
	@echo "== mutants, seed $(SEED)"
	@scripts/isolated $(BIN)/python -m tests.mutation --seed $(SEED) $(MUTANTS)
