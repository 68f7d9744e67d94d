# The commands of the README. Each works in a fresh clone: `.venv` is made when it is needed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: demo ui test lint types mypy pyright layers docs matrix oldest between system test-system real fuzz reliability browser screenshots chromium \
  bench judges mutants wheel audit build constraints clean

AIRFLOW := 3.3.2
PYTHONS := python3 python3.11 python3.12 python3.13 python3.10
BIN := .venv/bin
DAG_IN_EACH_MODE := test_the_link_is_there_while_a_task_waits_and_when_it_is_over

# The certificates of the system are those that a company's own mirror is signed with.
export UV_SYSTEM_CERTS := 1
# Where Python may keep no bytecode, each of the many processes compiles a thousand files of Airflow anew.
export PYTHONDONTWRITEBYTECODE :=

demo: .venv/ready  ## Airflow runs the example DAG against the simulator
	@$(BIN)/python demo/run.py

ui: .venv/ready  ## Airflow's UI and the simulator's page side by side, until Ctrl-C
	@$(BIN)/python demo/ui.py

test: .venv/ready  ## everything that must hold; the last line is pytest's
	$(MAKE) -j 2 lint mypy pyright layers
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 | tee .venv/pytest.log
	@$(BIN)/coverage combine -q
	$(BIN)/coverage report
	@tail -n 1 .venv/pytest.log

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: mypy pyright

mypy: .venv/readme_dag.py
	$(BIN)/mypy
	$(BIN)/mypy $<

pyright: .venv/readme_dag.py
	$(BIN)/basedpyright airflow_provider_anon $<

.venv/readme_dag.py: README.md .venv/ready
	sed -n '/^```python$$/,/^```$$/{//!p}' README.md >$@

layers: .venv/ready
	$(BIN)/lint-imports --no-logo

docs: .venv/ready  ## the documentation, in docs/_build/html
	$(BIN)/nox -s docs

matrix: oldest between  ## the lines of Airflow but the newest, which is `make test`

oldest: .venv/ready  ## the whole suite on the oldest
	$(BIN)/nox -s "tests(2.11.2)"

between: .venv/ready  ## the core, every mode, and a DAG in each mode on those between
	$(BIN)/nox -s "tests(3.0.6)" "tests(3.1.8)" "tests(3.2.2)" -- tests/test_provider.py tests/test_protocol.py \
	  tests/test_waiting.py tests/test_links.py::$(DAG_IN_EACH_MODE)

system: .venv/ready  ## waits in a real Airflow with PostgreSQL; `make system SIZE=--full` for the whole size
	$(BIN)/python tests/system/run.py $(SIZE) --result .nox/system-result.json

test-system: .venv/ready  ## waits in an Airflow of several machines that fare badly; `SIZE=--full` for 1,000 of them
	$(BIN)/python tests/system/run.py --distributed $(SIZE) --result .nox/test-system-result.json

real: .venv/ready  ## the ways of waiting in a real Airflow that is set up in unusual ways
	$(BIN)/nox -s real

fuzz: .venv/ready  ## many new cases for the property tests, which may take an hour
	$(BIN)/nox -s fuzz

reliability: .venv/ready  ## write docs/reliability.md from the last `make test-system`
	$(BIN)/python tests/system/reliability.py .nox/test-system-result.json

browser: .venv/browser chromium  ## Airflow's pages and the simulator's, in a browser
	BROWSER_TESTS=required $(BIN)/python -m pytest tests/browser

screenshots: .venv/browser chromium  ## take the pictures in docs/images anew
	BROWSER_TESTS=required SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/browser

bench: .venv/ready  ## ours beside other providers; writes benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run.py

judges: .venv/ready  ## Schemathesis, Prism, nginx and tinyproxy try the simulator and the package
	$(BIN)/nox -s judges

mutants: .venv/ready  ## make the core wrong in a thousand ways; which does no test see? Some three quarters of an hour
	$(BIN)/nox -s mutants

wheel: .venv/ready  ## what is built works where only Airflow is, and keeps its types
	$(BIN)/nox -s wheel

audit: .venv/ready  ## known vulnerabilities of the pinned packages, where there is somebody to ask
	$(BIN)/nox -s audit

build: .venv/ready  ## wheel and sdist, checked, in dist/
	$(BIN)/nox -s build

constraints: .venv/ready  ## write constraints/ anew from what the package index has today
	$(BIN)/nox -s constraints

clean:
	rm -rf .venv .nox .demo .judges .ui dist docs/_build .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/ready: pyproject.toml $(wildcard constraints/airflow-$(AIRFLOW)-*.txt)
	@fits() { "$$1" -c 'import ensurepip, sqlite3, ssl, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'; }
	for python in $(BIN)/python $(PYTHONS) "$$(pyenv root 2>/dev/null)"/versions/3.1[0-3].*/bin/python; do
	  if fits "$$python" &>/dev/null; then break; fi
	  python=
	done
	if [ -z "$$python" ]; then echo "Python 3.10 to 3.13 with venv is needed, and none was found." >&2; exit 1; fi
	pins=constraints/airflow-$(AIRFLOW)-py$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
	what="-q -c $$pins -e . --group test --group check"
	echo "Installing Airflow $(AIRFLOW) and the package into .venv, with $$pins"
	if [ "$$python" != $(BIN)/python ]; then "$$python" -m venv --clear .venv; fi
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $$pins uv
	# Where uv finds no way to the package index, pip may: it has settings of its own.
	$(BIN)/uv pip install --python $(BIN)/python $$what || {
	  $(BIN)/python -m pip install -q --upgrade pip
	  $(BIN)/python -m pip install $$what
	}
	touch $@

.venv/browser: .venv/ready
	@pins=constraints/airflow-$(AIRFLOW)-py$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
	$(BIN)/uv pip install -q --python $(BIN)/python -c $$pins --group browser --group docs || {
	  $(BIN)/python -m pip install -q --upgrade pip
	  $(BIN)/python -m pip install -q -c $$pins --group browser --group docs
	}
	touch $@

chromium:
	@for name in chromium chromium-browser google-chrome; do
	  if command -v $$name >/dev/null; then exit; fi
	done
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	  echo "Chromium is needed, and was not found. On Debian: apt-get install chromium" >&2
	  exit 1
	fi
	apt-get update -qq
	apt-get install -o DPkg::Lock::Timeout=300 -qq -y --no-install-recommends chromium

.ONESHELL: .venv/ready
