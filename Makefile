# aioxide's tasks. `make help` lists them. Every target makes the virtual environment it needs, one per Python version:
#   make test                      on the default python3
#   make test PYTHON=python3.13    on another one

PYTHON  ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2] + getattr(sys, "abiflags", ""))')
VENV    := .venv/$(VERSION)
BIN     := $(VENV)/bin
PY      := $(BIN)/python
STAMP   := $(VENV)/.ready
RUST    := Cargo.toml Cargo.lock $(shell find crates -name '*.rs' -o -name Cargo.toml)
# What maturin's develop would do, without its rebuild of the environment: the extension beside the package.
SUFFIX   = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
PROFILE ?= dev
JOBS    ?= 2
# Of the gate's fuzzing: the same sequences each time, so that no landing depends on luck. `make fuzz` takes new ones.
GATE_SEED := 1

export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help venv dev release demo tour test test-rust test-python lint format layout typing bench conformance fuzz fuzz-records soundness \
  free-threading loom clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.13 chooses the interpreter (now: $(PYTHON), $(VERSION))"

$(STAMP): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("aioxide needs Python 3.10 or later")'
	@command -v cargo >/dev/null || { echo "aioxide is built with cargo, which is not installed (see https://rustup.rs)"; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing what the tests need into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.txt
	@$(PY) -c 'import sysconfig, pathlib; pathlib.Path(sysconfig.get_path("purelib"), "aioxide.pth").write_text(str(pathlib.Path("python").resolve()))'
	@touch $@

venv: $(STAMP) ## Make the virtual environment

dev: $(STAMP) ## Build the extension with checks on, quickly
	@PYO3_PYTHON=$(abspath $(PY)) cargo build -q --locked -p aioxide-python
	@install -m 755 target/debug/lib_native.so python/aioxide/_native$(SUFFIX)

release: $(STAMP) ## Build the extension as it is shipped
	@PYO3_PYTHON=$(abspath $(PY)) cargo build -q --locked --release -p aioxide-python
	@install -m 755 target/release/lib_native.so python/aioxide/_native$(SUFFIX)

demo: release ## The main job: crawl a generated site on aioxide, then on asyncio
	@$(PY) tools/demo.py

tour: dev ## Run all examples on both loops and compare
	@$(PY) tools/tour.py

test: layout test-rust test-python ## Everything that must hold, on this Python

test-rust: ## The core's tests, without an interpreter
	@cargo test -q --locked -p aioxide-core

test-python: dev ## Unit tests, tour, nativeness gate, fuzzer with fixed seeds, and conformance
	@$(PY) tools/side_by_side.py "$(PY) -m pytest -q tests/integration --ignore-glob=*/test_tls_*" "$(PY) -m pytest -q tests/unit" \
	  "bash -c '$(PY) -m pytest -q tests/integration/test_tls_*.py && AIOXIDE_TLS=fallback $(PY) -m pytest -q -k \"not asyncio\" tests/integration/test_tls_*.py'"
	@$(PY) -m fuzz --jobs $(JOBS) --seed $(GATE_SEED)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || exit 0; \
	  AIOXIDE_TLS=fallback $(PY) -m fuzz --jobs $(JOBS) --seed $(GATE_SEED) --features tls --steps 4000
	@$(PY) -m fuzz.records --cases 120
	@$(PY) tests/conformance/run.py -j $(JOBS)

conformance: dev ## CPython's own asyncio tests, all groups
	@$(PY) tests/conformance/run.py -j $(JOBS)

lint: $(STAMP) ## Formatting, clippy, ruff
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements-lint.txt
	@cargo fmt --all --check
	@PYO3_PYTHON=$(abspath $(PY)) cargo clippy -q --locked --workspace --all-targets -- -D warnings
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

format: $(STAMP) ## Format all code
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements-lint.txt
	@cargo fmt --all
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format -q .

typing: dev ## mypy on the package and on users' code, stubtest on the extension
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements-lint.txt
	@$(PY) -m mypy --strict -p aioxide
	@$(PY) -m mypy --strict tests/typing/use.py
	@$(PY) -m mypy.stubtest aioxide._native --allowlist tests/typing/stubtest-allowlist.txt

layout: ## The layers' direction and the unsafe fence
	@$(PYTHON) tools/layout.py

fuzz: dev ## A million random calls on both loops, others each time; FUZZ="--minutes 10 --seed 5 --keep-going"
	@$(PY) -m fuzz --jobs $(JOBS) --steps 1000000 $(FUZZ)

fuzz-records: dev ## Mutated TLS records against both engines, others each time; RECORDS="--minutes 10 --seed 5"
	@$(PY) -m fuzz.records --seed $$(date +%s) --cases 20000 $(RECORDS)

soundness: ## Debug interpreter with a refleak hunt; the inbox under loom; longer model tests
	@$(PYTHON) tools/soundness.py

free-threading: ## On an interpreter without a GIL: smoke, stress, tests and conformance (FREE_THREADED=python3.13t)
	@$(PYTHON) tools/free_threading.py $(if $(FREE_THREADED),--python $(FREE_THREADED))

loom: ## The inbox and the pools under loom
	@RUSTFLAGS="--cfg loom" cargo test -q --locked -p aioxide-core --release --target-dir target/loom loom

bench: release ## Compare with asyncio, uvloop and rloop: tables, JSON, plot
	@grep -v '^#' benches/requirements.txt | while read -r package; do \
	  $(BIN)/pip install -q --disable-pip-version-check --only-binary :all: "$$package" || echo "no $$package for this Python"; \
	done
	@$(PY) -m benches --goals $(BENCH)

clean: ## Remove what was built
	@rm -rf target .venv python/aioxide/_native*.so
