# Every target works alone on a machine with Python >= 3.11, pip and make: it makes the environment it needs
# from a hash-locked file first.
#
#   make demo     the whole pipeline on real games, in minutes: figures 1 and 10 of the demo study, and the report
#   make smoke    every figure and table of the paper that can be trained, at budgets of seconds
#   make test     the tests for everyone: all that are not marked `long`
#   make test-long  those that are: interrupted training, invalidation, the report in Chromium and a real SLURM
#                 (where these are installed; SLURM needs root). Continuous integration runs both
#   make chaos    a tiny study disturbed a hundred times in every stage, each time completed to the same bytes (two
#                 hours; FAULTS=20 for fewer). The long tests have a few of these faults
#   make fuzz     a hundred thousand damaged files for all readers (an hour; MUTATIONS=20000 for fewer). The long tests
#                 have 3,000
#   make lint     style, types and workflow checks
#   make parity   the tests against the paper-era code, in its own environment (3 GB)
#   make lock     resolve the environments again: `make lock UPGRADE=--upgrade` for newer versions

PYTHON ?= python3
CORES ?= 2
UPGRADE ?=
FAULTS ?= 100
MUTATIONS ?= 100000

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The packages are installed without compiled modules: Python must be allowed to keep what it compiles.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo smoke test test-long chaos fuzz lint parity bench lock clean

VENV := .venv
ORACLE := .venv-oracle
BIN := $(abspath $(VENV)/bin)
digest = $(shell sha256sum $(1) | cut -c1-16)

# A stamp names the lock that was installed, so a changed lock installs and a touched one does not.
# The dev environment contains the cpu one: where it is there, `make demo` takes it.
DEV_READY := $(VENV)/dev-$(call digest,envs/dev.txt)
CPU_READY := $(VENV)/cpu-$(call digest,envs/cpu.txt)
ORACLE_READY := $(ORACLE)/oracle-$(call digest,envs/oracle.txt)
PIPELINE_READY := $(if $(wildcard $(DEV_READY)),$(DEV_READY),$(CPU_READY))

# A file's tests share fixtures that train; in pytest's order, since xdist would start files of few tests last.
PYTEST := pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

demo: $(PIPELINE_READY)
	PATH="$(BIN):$$PATH" snakemake all report --cores $(CORES)
	@echo
	@echo "Report:   $(CURDIR)/results/demo/report.html"
	@echo "Figures:  $(CURDIR)/results/demo/figures"
	@echo "Tables:   $(CURDIR)/results/demo/tables"
	@echo "Checksums of every reproducible file: $(CURDIR)/results/demo/manifest.json"

smoke: $(PIPELINE_READY)
	PATH="$(BIN):$$PATH" snakemake --cores $(CORES) --configfile config/studies/smoke.yaml

test: $(DEV_READY)
	PATH="$(BIN):$$PATH" $(PYTEST) -m "not long"

test-long: $(DEV_READY)
	PATH="$(BIN):$$PATH" $(PYTEST) -m "long and not oracle"

chaos: $(DEV_READY)
	PATH="$(BIN):$$PATH" python tests/chaos/campaign.py --faults $(FAULTS) --report chaos.json

fuzz: $(DEV_READY)
	MOERL_FUZZ_MUTATIONS=$(MUTATIONS) PATH="$(BIN):$$PATH" pytest -n $(CORES) -m fuzz

lint: $(DEV_READY)
	PATH="$(BIN):$$PATH" ruff check
	PATH="$(BIN):$$PATH" ruff format --check
	PATH="$(BIN):$$PATH" mypy
	PATH="$(BIN):$$PATH" snakefmt --check Snakefile workflow
	PATH="$(BIN):$$PATH" pytest -q tests/workflow/test_lint.py tests/study/test_locks.py

parity: $(DEV_READY) $(ORACLE_READY)
	MOERL_REQUIRE_ORACLE=1 PATH="$(BIN):$$PATH" pytest -m oracle

bench: $(DEV_READY) $(ORACLE_READY)
	PATH="$(BIN):$$PATH" python benchmarks/bench_train.py --oracle-python $(ORACLE)/bin/python --agent dqn
	PATH="$(BIN):$$PATH" python benchmarks/bench_train.py --oracle-python $(ORACLE)/bin/python --agent rainbow
	PATH="$(BIN):$$PATH" python benchmarks/bench_workflow.py

UV_COMPILE = $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header \
	--python-version 3.11 $(UPGRADE)
lock: $(DEV_READY)
	$(UV_COMPILE) --universal envs/build.in -o envs/build.txt
	$(UV_COMPILE) --universal -c envs/build.txt pyproject.toml envs/build.in -o envs/cpu.txt
	for extra in dev cuda12 cuda13; do \
	  $(UV_COMPILE) --universal --extra $$extra -c envs/cpu.txt pyproject.toml envs/build.in -o envs/$$extra.txt; \
	done
	$(UV_COMPILE) --python-platform x86_64-manylinux_2_28 envs/oracle.in -o envs/oracle.txt
	digest=$$(cat envs/build.txt envs/cpu.txt | sha256sum | cut -c1-64); \
	  sed -i "s/^\(# SHA-256 .*: \).*/\1$$digest/" envs/conda.yaml

clean:
	rm -rf $(VENV) $(ORACLE)

# $(call environment,FOLDER): an empty environment. A Debian without python3-venv makes environments that
# lack pip; the system's pip then installs into them.
define environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: $(PYTHON) is older than 3.11; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1) >/dev/null 2>&1 || $(PYTHON) -m venv --without-pip --clear $(1)
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --version >/dev/null 2>&1 \
	  || { echo "make: $(PYTHON) has neither pip nor ensurepip (Debian: apt install python3-venv)" >&2; exit 1; }
endef
pip = $$($(1)/bin/python -m pip --version >/dev/null 2>&1 \
  && echo $(1)/bin/python -m pip || echo $(PYTHON) -m pip --python $(1)/bin/python)

# $(call install,LOCK): the pipeline's environment with exactly what the lock names, and this project.
define install
	@echo "Installing $(1) into $(VENV) (once)"
	$(call environment,$(VENV))
	@bash envs/install.sh $(1) $(call pip,$(VENV))
	@rm -f $(VENV)/dev-* $(VENV)/cpu-*
endef

$(DEV_READY):
	$(call install,envs/dev.txt)
	@touch $@

$(CPU_READY):
	$(call install,envs/cpu.txt)
	@touch $@

$(ORACLE_READY):
	@echo "Installing envs/oracle.txt into $(ORACLE) (once, 3 GB)"
	$(call environment,$(ORACLE))
	@$(call pip,$(ORACLE)) --quiet --disable-pip-version-check install --require-hashes -r envs/oracle.txt
	@rm -f $(ORACLE)/oracle-*
	@touch $@
