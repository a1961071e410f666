# Every target sets up what it needs in .venv and nothing more. PYTHON picks the interpreter.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench figures osmesa chromium clean

help:            ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.demo       ## answers on the shipped pictures and a video -> demo_out/index.html
	$(BIN)/edge-mm demo

test: $(VENV)/.test osmesa chromium  ## the whole test suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test       ## ruff, and mypy --strict on runtime, export and the command line
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.test  ## us and every peer, same weights, in turn; the first run installs the peers
	$(BIN)/python bench/speed.py --json data/bench/speed.json --plot data/bench/speed.svg

LONG := $(addprefix bench/,alignment.py export.py smollm2.py soak.py speed.py)

figures: $(VENV)/.test osmesa  ## what else bench/ measures, but for the long: alignment, export, smollm2, soak
	@for script in $(filter-out $(LONG),$(wildcard bench/*.py)); do \
	  echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:           ## forget the environment and the caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "edge-mm needs Python 3.10 or newer; try: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps mean "installed from this pyproject.toml".
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo 'installing edge-mm[cpu] ...'
	@$(PIP) --editable '.[cpu]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo 'installing edge-mm[cpu,data,train,export,rtx,dev], a few minutes the first time ...'
	@$(PIP) '$(TORCH)' --editable '.[cpu,data,train,export,rtx,dev]'
	@touch $@ $(VENV)/.demo

# $(call debian,COMMAND THAT FINDS IT,PACKAGE,WHAT NEEDS IT)
define debian
@if $(1); then exit 0; fi; \
install='apt-get install -y -qq --no-install-recommends $(2)'; \
if [ "$$(id -u)" = 0 ]; then as_root=''; \
elif sudo -n true 2>/dev/null; then as_root='sudo -n'; \
else as_root=none; fi; \
if [ "$$as_root" != none ] && command -v apt-get >/dev/null; then \
  export DEBIAN_FRONTEND=noninteractive; \
  $$as_root $$install >/dev/null 2>&1 || \
  { $$as_root apt-get update -qq && $$as_root $$install >/dev/null; } && exit 0; \
fi; \
echo "$(3) needs $(2): sudo apt-get install $(2)" >&2
endef

# MuJoCo renders without a display through this library.
osmesa:
	$(call debian,ldconfig -p 2>/dev/null | grep -q libOSMesa,libosmesa6,rendering)

# A real browser for the test of the report's page.
chromium:
	$(call debian,command -v chromium >/dev/null || command -v google-chrome >/dev/null,chromium,the test of a page)
