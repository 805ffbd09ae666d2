# The two commands of the README are `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench install clean

install: .venv/installed

# torch first: with it in place nothing later asks the registry for another build of it.
.venv/installed: pyproject.toml constraints-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep ^torch== constraints-cpu.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-cpu.txt -e '.[test]'
	touch $@

demo: install
	$(BIN)/neurofm demo $(ARGS)

check: install
	$(BIN)/ruff format --check neurofm tests
	$(BIN)/ruff check neurofm tests
	$(BIN)/mypy

# As users run it, with every shape annotation checked at run time; then notebooks, processes, whole commands.
test: check
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest -q --jaxtyping-packages=neurofm,beartype.beartype
	$(BIN)/python -m pytest -q -m "notebook or system"

bench: install
	$(BIN)/python -m tests.benchmarks $(ARGS)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
