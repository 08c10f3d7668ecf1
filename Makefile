# On a fresh machine with Python 3.11+, pip and make:  make run   then   make test
PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
export WANDB_MODE ?= offline

.PHONY: run test setup lint lock clean

run: .venv/ready  ## the quickstart on real digits: three frames, three seeds
	$(BIN)/dai-lab -m +experiment=quickstart hydra/launcher=joblib

test: .venv/ready  ## every test and notebook
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/ready  ## what the tests check too: style, types, rooms
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

setup: .venv/ready

# A Python without venv (Debian's, bare) can still make one through uv from pip.
.venv/ready: requirements.lock pyproject.toml
	@command -v $(UV) >/dev/null 2>&1 || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install -q uv; } \
	  || $(PYTHON) -m pip install -q --user uv
	@test -x $(BIN)/python || $(UV) venv -q --python $(PYTHON) .venv
	$(UV) pip sync -q --python $(BIN)/python requirements.lock
	$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@$(BIN)/python -m dai_lab.learning.warm
	@touch $@

lock: .venv/ready  ## pin everything anew, recording no address
	$(UV) pip compile -q --all-extras --universal --python-version 3.11 --no-emit-index-url \
	  --no-emit-find-links --no-annotate --no-header --upgrade pyproject.toml -o requirements.lock

clean:
	rm -rf .venv build dist results
