# mqcore: two commands from nothing.  `make run` sets up .venv and runs the demo; `make test` sets up and passes the tests.
#
# Stamp files say what is done: .venv/.installed (pyproject.toml, setup.py), .venv/.built (C and Cython sources),
# .venv/.tools (test, lint and bench dependencies).  MQCORE_STRICT=1 turns a skip for a missing real part into a failure.
# All Python runs with -P: the C folder has the package's name, and must not be imported as a namespace package.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PY := $(VENV)/bin/python -P
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -q
INSTALLED := $(VENV)/.installed
BUILT := $(VENV)/.built
TOOLS := $(VENV)/.tools

# pip builds in a folder of its own unless told; one folder for both makes each later build incremental.
export MQCORE_BUILD_DIR ?= $(CURDIR)/build/objects
export MQCORE_JOBS ?= $(JOBS)
export PYTHONDONTWRITEBYTECODE ?= 1
export PATH := $(abspath $(VENV))/bin:$(PATH)

NATIVE := $(wildcard bindings/*.pyx bindings/*.pxd mqcore/src/*.[ch] mqcore/include/mqcore/*.h)
C_FILES := $(wildcard mqcore/src/*.[ch] mqcore/include/mqcore/*.h mqcore/tests/*.c mqcore/tests/*.h mqcore/fuzz/*.c bench/callgrind/*.[ch])
FUZZ_SECONDS ?= 10
PYTEST_ARGS ?=

.PHONY: help run build test lint format core-test fuzz callgrind callgrind-baseline pytest sanitize kafka-jars postgres bench torture soak wheel clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

# ---- set-up ----------------------------------------------------------------------------------------------------------

$(VENV)/bin/python:
	@tools/need.sh gcc gcc libc6-dev
	test -x $@ || "$$(tools/find_python.sh)" -m venv $(VENV)

# -e with the build requirements beside it: one compile, no isolated environment.  pip >= 25.1 knows --group.
$(INSTALLED): pyproject.toml setup.py | $(VENV)/bin/python
	@echo "set-up: dependencies and build"
	$(PIP) install "pip>=25.1"
	$(PIP) install --group build
	$(PIP) install --no-build-isolation -e .
	@touch $@

$(BUILT): $(INSTALLED) $(NATIVE)
	$(PY) setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.wheel: pyproject.toml | $(INSTALLED)
	$(PIP) install --group wheel
	@touch $@

$(TOOLS): pyproject.toml | $(INSTALLED)
	@echo "set-up: test, lint and bench dependencies"
	$(PIP) install --group test --group lint --group bench
	$(PIP) install --no-deps --no-build-isolation --group demo
	@touch $@

$(VENV)/.demo: pyproject.toml | $(INSTALLED)
	$(PIP) install --no-deps --no-build-isolation --group demo
	@touch $@

build: $(BUILT) ## set up .venv and build the native modules in place

# ---- the main job ----------------------------------------------------------------------------------------------------

run: $(BUILT) $(VENV)/.demo ## set up all and run `mqcore demo` on real flight events
	$(VENV)/bin/mqcore demo $(DEMO_ARGS)

# ---- tests: pytest comes last, so that its closing line is the last word --------------------------------------------

test: $(BUILT) $(TOOLS) ## set up all; lint, C unit tests, fuzz smoke, instruction counts, pytest (with Kafka interop)
	$(MAKE) lint
	$(MAKE) core-test
	$(MAKE) fuzz
	$(MAKE) callgrind
	$(MAKE) pytest

lint: $(BUILT) $(TOOLS) ## ruff, mypy strict, import contracts, clang-format, stubs against the modules
	@failed=; check() { echo "+ $$*" | cut -c1-100; "$$@" || failed="$$failed [$$(echo "$$*" | cut -c1-40)]"; }; \
	check ruff check . ; \
	check ruff format --check . ; \
	check $(PY) -m mypy ; \
	check lint-imports --no-logo --no-cache ; \
	check clang-format --dry-run -Werror $(C_FILES) ; \
	check $(PY) tools/check_stubs.py ; \
	[ -z "$$failed" ] || { echo "lint: failed:$$failed"; exit 1; }

format: $(TOOLS) ## rewrite Python and C files as `make lint` wants them
	ruff check --fix .
	ruff format .
	clang-format -i $(C_FILES)

core-test: ## C unit tests with ASan and UBSan
	@tools/need.sh cmake cmake make
	cmake -S mqcore -B build/core -DCMAKE_BUILD_TYPE=Debug >build/core.log 2>&1 || { cat build/core.log; exit 1; }
	cmake --build build/core -j$(JOBS)
	ctest --test-dir build/core --output-on-failure -j$(JOBS)

fuzz: ## each libFuzzer target for FUZZ_SECONDS (10); skipped without clang
	@tools/fuzz.sh $(FUZZ_SECONDS) $(JOBS)

callgrind: $(BUILT) ## instruction counts of the core's hot functions against the baseline (+2 % fails)
	@tools/need.sh valgrind valgrind || [ -z "$(MQCORE_STRICT)" ]
	$(PY) bench/callgrind/compare.py

callgrind-baseline: $(BUILT) ## measure a new baseline (say why in the commit that holds it)
	@tools/need.sh valgrind valgrind
	$(PY) bench/callgrind/compare.py --update

pytest: $(BUILT) $(TOOLS) kafka-jars postgres ## all Python tests
	$(PY) -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

kafka-jars: ## Kafka's own tools and broker for the interop tests (JDK and Maven are installed where root)
	@tests/compat/kafka/resolve.sh || [ -z "$(MQCORE_STRICT)" ]

postgres: ## a PostgreSQL server for the tests of sinks (installed where root)
	@tests/sinks/install.sh || [ -z "$(MQCORE_STRICT)" ]

sanitize: $(BUILT) $(TOOLS) ## the unit tests of Python over modules built with ASan and UBSan (slow)
	@tools/sanitize.sh $(PYTEST_ARGS)

# ---- long runs -------------------------------------------------------------------------------------------------------

bench: $(BUILT) $(TOOLS) ## every benchmark as a ratio to this machine's limit; table and plots in build/bench
	$(PY) bench/report.py $(BENCH_ARGS)

torture: $(BUILT) $(TOOLS) ## every fault suite at its full count
	$(VENV)/bin/mqcore torture all $(TORTURE_ARGS)

soak: $(BUILT) ## 10^8 records through a store under retention and compaction: nothing may grow
	$(VENV)/bin/mqcore torture soak $(SOAK_ARGS)

wheel: $(BUILT) $(VENV)/.wheel ## a manylinux wheel in dist/, built with zig and checked by auditwheel
	$(PY) tools/build_wheel.py

clean: ## remove what was built, not .venv
	rm -rf build dist demo-data .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find python -name '*.so' -delete
	rm -f $(BUILT) $(INSTALLED)
