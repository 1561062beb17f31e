# Everything happens in .venv; nothing else on the machine is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: run up compare test slow lint types format

run: .venv/installed
	$(BIN)/fedsim run experiments/configs/quickstart.toml

# The same as a server and five clients, each a process, over TLS.
up: .venv/installed
	$(BIN)/fedsim up experiments/configs/deploy.toml --clients 5

# 63 runs over five mechanisms, their table, pictures and page.
compare: .venv/installed
	$(BIN)/fedsim sweep experiments/configs/compare.toml
	$(BIN)/fedsim compare runs/compare --out runs/compare/pictures --html runs/compare/report.html

test: .venv/installed
	$(BIN)/python -m pytest -n 3 --dist worksteal

# The tests that take minutes: two files at a time, but one where there is a Ray cluster. They start dozens of processes
# and wait for them: one that fails is tried once more, and counted as rerun.
slow: .venv/installed
	$(BIN)/python -m pytest -m "slow and not ray" -n 2 --dist loadfile --reruns 1 -raR
	$(BIN)/python -m pytest -m "slow and ray" --reruns 1 -raR

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

types: .venv/installed
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# constraints.txt pins what was tested, PyTorch's CPU build among it.
.venv/installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
