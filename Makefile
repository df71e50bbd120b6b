# The commands of a developer. `make demo` and `make test` prepare everything that they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
CORE := $(VENV)/core
STAMP := $(VENV)/bytecode
SOURCES := $(shell find cluster loadtest node snapshots statemachine -name '*.py' -not -path '*/_compiled/*')
ALONE := tests/unit tests/property tests/interaction tests/golden tests/simulation tests/conformance
CLUSTERS := tests/documentation tests/chaos tests/attack tests/acceptance
FOREIGN := tests/clients tests/browser
API := statemachine.engine statemachine.commands statemachine.events statemachine.types node.native.client node.native.feed_reader cluster.raft cluster.batcher cluster.ports
CORE_SOURCES := setup.py node/compiled.py $(wildcard statemachine/*.py statemachine/*.pyx statemachine/*.pxd node/gateway/*.pxd node/gateway/*.pyx node/gateway/http/*.pxd node/native/*.pxd) node/native/framing.py node/native/arrivals.py node/native/submissions.py node/gateway/plain_order.py node/gateway/direct.py node/gateway/http/connection.py node/gateway/http/messages.py

.PHONY: setup core loadtest demo demo-many upgrade-demo test check lint types layers tests bench bench-snapshots bench-install soak soak-core chaos attack kills simulate clean help clients api-docs conformance

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

setup: $(STAMP) ## the virtual environment, with the locked dependencies and the compiled core

$(INSTALLED): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	@echo "installing $$(grep -c '^[a-z].*==' requirements.lock) locked packages: some minutes the first time"
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	QUORUMBOOK_CORE=plain $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

core: $(CORE) ## compile the core again, if its sources changed; without a C compiler the plain core runs

$(CORE): $(INSTALLED) $(CORE_SOURCES)
	@$(BIN)/python setup.py -q build_ext --inplace >$(VENV)/core.log 2>&1 || true
	@$(BIN)/python -c "import statemachine, node.gateway; print('core:', statemachine.CORE + ', gateway:', node.gateway.CODE)"
	@$(BIN)/python -c "import statemachine; raise SystemExit(statemachine.CORE != 'compiled')" || echo "  why: $(VENV)/core.log (a C compiler and Python's headers are needed: apt-get install gcc python3-dev)"
	@touch $@

# Where PYTHONDONTWRITEBYTECODE is set, or the directory cannot be written, each process of a node would translate its
# modules at each start: about a quarter of the CPU time of the start.
$(STAMP): $(CORE) $(SOURCES)
	@$(BIN)/python -m compileall -q cluster loadtest node snapshots statemachine || true
	@touch $@

demo: $(STAMP) ## three nodes trade, lose their leader, and go on; a verdict at the end. KEEP=1 leaves them up, UI=1 trades for MINUTES (default 10) for the page
	$(BIN)/python -m loadtest.demo $(if $(FLOW),--flow $(FLOW)) $(if $(KEEP),--keep) $(if $(SEED),--seed $(SEED)) $(if $(UI),--ui $(or $(MINUTES),10))

demo-many: $(STAMP) ## the demo TIMES times in a row (default 20), with the gaps' p50 and maximum
	$(BIN)/python -m loadtest.demo --repeat $(or $(TIMES),20) --results run/demo-runs.jsonl

upgrade-demo: $(STAMP) ## three nodes of version 0.2.0 are replaced while they trade, then the level changes; FORMER=dir where 0.2.0 is installed, ROLLS=50 for a table of gaps
	$(BIN)/python -m loadtest.rolling $(if $(FORMER),--former $(FORMER)) $(if $(KEEP),--keep) $(if $(ROLLS),--rolls $(ROLLS))

bench: $(STAMP) ## commands a second and latencies of three nodes on this machine
	$(BIN)/python -m loadtest.bench

compare: $(STAMP) ## beside etcd, matching-engine and a plain price-time book, in turns; QUICK=1 for a rough run, ONLY=cluster|core|growth|overload, RECORD=FILE
	$(BIN)/python -m loadtest.compare $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json) $(if $(RECORD),--record $(RECORD))

oracle: $(STAMP) ## the public workload, all 1,996,097 messages, against the published hash; QUORUMBOOK_DATA names the data's directory
	$(BIN)/python -m loadtest.flash

bench-core: $(STAMP) ## the engine in one process: beside matching-engine and a plain book, stages, memory, replay; JSON=1
	$(BIN)/python -m loadtest.core $(if $(JSON),--json)

bench-snapshots: $(STAMP) ## what snapshots cost an engine with ORDERS (default 1000000) resting orders under load; loading them
	$(BIN)/python -m tests.benchmarks.snapshots --orders $(or $(ORDERS),1000000)

bench-install: $(STAMP) ## what it costs the others when a node comes back with a snapshot of ORDERS (default 150000) orders under load
	$(BIN)/python -m tests.benchmarks.install --orders $(or $(ORDERS),150000)

bench-loading: $(STAMP) ## how long a node takes to load a snapshot with ORDERS (default 1000000) resting orders
	$(BIN)/python -m tests.benchmarks.loading --orders $(or $(ORDERS),1000000)

loadtest: $(STAMP) ## Locust: USERS (default 50) over HTTP, WebSocket and native for MINUTES (default 1); KILL_LEADER=1; RATE=n a second, open loop; PROCESSES=n; CLUSTER=dir
	$(BIN)/python -m loadtest.traffic --users $(or $(USERS),50) --minutes $(or $(MINUTES),1) --processes $(or $(PROCESSES),1) $(if $(KILL_LEADER),--kill-leader) $(if $(RATE),--arrivals $(RATE)) $(if $(CLUSTER),--cluster $(CLUSTER))

soak: $(STAMP) ## kill and stop nodes of a loaded cluster at random for MINUTES (default 10)
	$(BIN)/python -m loadtest.soak --minutes $(or $(MINUTES),10) --report docs/reliability.md

soak-core: $(STAMP) ## COMMANDS (default 5000000) random commands through both cores, with all invariants
	$(BIN)/python -m tests.property.soak --commands $(or $(COMMANDS),5000000) --seed $(or $(SEED),1)

chaos: $(STAMP) ## many kinds of faults for MINUTES (default 5); ONLY=fault,... for some. As root also disks and the network
	$(BIN)/python -m tests.chaos.run --minutes $(or $(MINUTES),5) --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY)) --report docs/reliability.md

attack: $(STAMP) ## attacks on a live cluster, judged by what happens to an honest trader; ONLY=name for one, SECONDS=15 a window
	$(BIN)/python -m tests.attack.run --seconds $(or $(SECONDS),15) $(if $(ONLY),--only $(ONLY))

kills: $(STAMP) ## kill the leader under load KILLS times (default 1000), and show where the gaps come from
	$(BIN)/python -m tests.chaos.kills --kills $(or $(KILLS),1000) --seed $(or $(SEED),1) --report docs/reliability.md

# mypy uses one processor, so the tests begin beside it.
test: $(STAMP) ## lint, types, layers and all tests but those with foreign clients (`make clients`): what CI runs first
	@$(MAKE) --no-print-directory -j 2 --output-sync=line check

check: lint types layers tests

lint: $(STAMP) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

layers: $(STAMP) ## the import directions
	$(BIN)/lint-imports

# A browser's driver keeps an event loop running in its process, so its tests have processes of their own.
clients: $(STAMP) ## foreign clients, unmodified, against real nodes; REPORT=1 writes the table of docs/clients.md
	$(BIN)/python -m pytest $(if $(REPORT),--clients-report docs/clients.md,-n 2 --dist loadfile) tests/clients
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/browser

# Tests with clusters often wait, so three of them use two processors. A `make` that a test runs must not inherit -j.
tests: $(STAMP) ## pytest: first what needs no cluster, on all processors; then what starts clusters, chaos and attacks included, three at a time
	env -u MAKEFLAGS -u MFLAGS $(BIN)/python -m pytest -n $(or $(WORKERS),auto) $(ALONE)
	env -u MAKEFLAGS -u MFLAGS $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(CLUSTERS)

api-docs: $(STAMP) ## the public Python API as pages, in run/api-docs
	QUORUMBOOK_CORE=plain $(BIN)/pdoc --docformat google -o run/api-docs $(API)

conformance: $(STAMP) ## a foreign judge of matching, TRACES (default 1000) generated traces of its profile fifo-full-v1
	rm -rf run/conformance
	$(BIN)/tracebook-conformance qualify --profile fifo-full-v1 --traces $(or $(TRACES),1000) --events-per-trace 60 --timeout 60 \
	  --output-dir run/conformance --candidate $(BIN)/python -m tests.conformance.adapter

simulate: $(STAMP) ## consensus, or with EXCHANGE=1 the whole exchange, under RUNS seeds from SEED on, NODES nodes, JOBS processes; STEPS of faults; DISKS=1 loses disks too, MEMBERS=1 changes members, LEVELS=1 has two versions, EVERYTHING=1 (with EXCHANGE) sends all kinds of orders, controls and fees
	$(BIN)/python -m tests.simulation.run --seed $(or $(SEED),0) --runs $(or $(RUNS),100) --nodes $(or $(NODES),3) $(if $(STEPS),--steps $(STEPS)) \
	  $(if $(EXCHANGE),--exchange) $(if $(EVERYTHING),--everything) $(if $(MEMBERS),--members) $(if $(LEVELS),--levels) $(if $(DISKS),--lose-disks) $(if $(FAULTS),--faults "$(FAULTS)") $(if $(TRACE),--trace) $(if $(JOBS),--jobs $(JOBS)) $(if $(REPORT),--report $(REPORT))

clean: ## forget the virtual environment and the caches
	rm -rf statemachine/_compiled node/_compiled $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
