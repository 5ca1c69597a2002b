# Everything runs from a bare clone with Python (3.10 to 3.13) and make.

VERSIONS := 3.10 3.11 3.12 3.13
# The Python of .venv: python3 where it is one of these, else any of them.
VERSION := $(shell python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PYTHON := $(shell scripts/find-python $(filter $(VERSION),$(VERSIONS)) 3.12 3.11 3.13 3.10)
MAIN := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
OTHERS := $(filter-out $(MAIN),$(VERSIONS))

# More than there are cores: a test that kills processes waits for a third of its time. Those come
# first (tests/conftest.py), which xdist would put in another order.
WORKERS := $(shell $(PYTHON) -c 'import os; print(min(6, (os.cpu_count() or 1) * 2))')
IN_PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Where it is set, each process compiles crewAI anew, which doubles the time of every import.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test compiled lint typecheck format pytest quick every-moment chaos local-model smoke oldest
.PHONY: browser mutate litellm crewai-tests bench constraints clean docs venv venvs

help:
	@echo 'make demo         show a crashed crew going on where it was'
	@echo 'make test         all checks: lint, typecheck, smoke, pytest'
	@echo 'make lint         ruff check, ruff format --check, and that imports point down'
	@echo 'make typecheck    mypy'
	@echo 'make pytest       the test suite; ARGS="-k name" for some of it'
	@echo 'make quick        the tests that start no processes and replay no whole table'
	@echo 'make every-moment the tests that kill and replay runs, at every moment of every entry'
	@echo 'make chaos        faults of every kind around workers, for minutes; CHAOS_SEED, CHAOS_FAULTS'
	@echo 'make local-model  the test with a real model; needs the extra local-model'
	@echo 'make smoke        one workflow on each other Python found'
	@echo 'make oldest       seam tests and smoke on the oldest crewAI and DBOS that are allowed'
	@echo 'make litellm      the tests of providers with LiteLLM, in an environment of its own'
	@echo 'make browser      install a Chromium, which the tests of the page drive'
	@echo 'make mutate       rename what is private there, one name at a time: do tests miss it?'
	@echo 'make crewai-tests the tests of crewAI itself, with durable objects underneath'
	@echo 'make bench        measure, and write benchmarks/RESULTS.md'
	@echo 'make docs         the documentation site, in build/site'
	@echo 'make format       ruff format and ruff check --fix'
	@echo 'make constraints  write constraints.txt anew, from the newest releases'
	@echo 'make clean        remove what the above made'

demo: venv
	@.venv/bin/crewai-dbos demo

test: venvs
	@$(MAKE) --no-print-directory -j2 compiled typecheck lint smoke browser
	.venv/bin/pytest $(IN_PARALLEL) --durations 10

# Byte code of all that tests import, once: each worker would compile it for itself. Not of the file
# whose tests are the positions of a run, which is made to list them.
COMPILED := --collect-only --quiet --quiet --ignore tests/crash/test_crashtest_tool.py

compiled: venv
	@.venv/bin/pytest $(COMPILED) >/dev/null || { .venv/bin/pytest $(COMPILED); exit 1; }

lint: venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-logo --no-cache

typecheck: venv
	.venv/bin/mypy

browser:
	@scripts/find-browser --install

format: venv
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

pytest: venv
	.venv/bin/pytest $(IN_PARALLEL) $(ARGS)

quick: venv
	.venv/bin/pytest $(IN_PARALLEL) -m 'not crash and not thorough and not every_moment and not chaos and not local_model' --ignore tests/crash $(ARGS)

every-moment: venv
	EVERY_MOMENT=1 .venv/bin/pytest $(IN_PARALLEL) -m 'every_moment or some_entries' $(ARGS)

chaos: venv
	.venv/bin/pytest -n 0 -s -m chaos $(ARGS) tests/fleet/test_chaos.py

local-model: venv
	.venv/bin/pytest -m local_model $(ARGS)

smoke: $(OTHERS:%=smoke-%)

smoke-%: .venvs/%
	@if [ -x .venvs/$*/bin/python ]; then .venvs/$*/bin/python tests/smoke/smoke.py; fi

SEAMS := $(shell find tests -name 'test_*_seam.py')

oldest:
	@mkdir -p .venvs
	@$(PYTHON) scripts/oldest.py >.venvs/oldest.txt
	@$(PYTHON) scripts/make_venv.py .venvs/oldest dev .venvs/oldest.txt
	.venvs/oldest/bin/pytest $(SEAMS)
	.venvs/oldest/bin/python tests/smoke/smoke.py

litellm:
	@mkdir -p .venvs
	@$(PYTHON) scripts/merged.py constraints.txt constraints-litellm.txt >.venvs/litellm.txt
	@$(PYTHON) scripts/make_venv.py .venvs/litellm dev,litellm .venvs/litellm.txt
	PROVIDER_TEST_WITH=litellm .venvs/litellm/bin/pytest tests/providers -k litellm $(ARGS)

mutate: venv
	.venv/bin/python scripts/mutate.py $(ARGS)

crewai-tests:
	@$(PYTHON) scripts/crewai_tests $(ARGS)

# Two at a time: one alone leaves a core idle.
venvs:
	@$(MAKE) --no-print-directory -j2 venv $(OTHERS:%=.venvs/%)

venv:
	@if [ -z "$(PYTHON)" ]; then echo 'no Python 3.10 to 3.13 with venv found' >&2; exit 1; fi
	@$(PYTHON) scripts/make_venv.py .venv dev,docs,providers

.PHONY: $(OTHERS:%=.venvs/%)
$(OTHERS:%=.venvs/%): .venvs/%:
	@python=$$(scripts/find-python $*); \
	if [ -n "$$python" ]; then $$python scripts/make_venv.py $@ testing; \
	else echo "Python $* not found: no smoke test on it"; fi

bench: venv
	.venv/bin/python -m benchmarks $(ARGS)

docs: venv
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

constraints:
	$(PYTHON) scripts/constraints.py $(VERSIONS) >constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf .venv .venvs .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
