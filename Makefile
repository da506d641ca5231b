# Two commands do everything on a machine with Python 3.11+ and make: `make run`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Without compiled bytecode every process compiles all that it imports, and the tests start a thousand; pytest keeps its
# rewritten asserts there, too. Some images set this variable.
export PYTHONDONTWRITEBYTECODE :=

QUICK := $(addprefix tests/unit/,base wire door route pace pack settle engine config/test_config.py)

# A file's tests stay together, for they share what is dear to start. In the order of their names, which has the long ones
# first: else those that have few tests and start processes would come last.
SPREAD := --dist loadfile --no-loadscope-reorder

# A process for each core and one more, because many tests wait; four at most.
EACH_CORE := -n $$($(PYTHON) -c 'import os; print(min(4, os.cpu_count() + 1))') $(SPREAD)

.PHONY: run quick test thorough test-compiled lint types unit clients alerts charts demo bench crash soak crash-oracle crash-start fuzz docs man sbom lock clean

# Start the daemon against the embedded sandbox: no account needed. ARGS: further flags.
run: $(VENV)/runtime
	$(BIN)/kdaemon run --sandbox --set listen.unix=$(CURDIR)/$(VENV)/kdaemon.sock \
	  --set spool.directory=$(CURDIR)/$(VENV)/spool $(ARGS)

# For the inner loop, some 15 s: the pure rooms, the wire and the doors; a fifth of the examples and seeds, and without two
# files that put very much in, to count what it costs.
quick: $(VENV)/dev
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 $(SPREAD) --hypothesis-profile quick $(addprefix --ignore=tests/unit/,engine/test_slices.py wire/test_bounds.py) \
	  $(wildcard $(QUICK))

# Everything that must hold before a change lands, once.
test: lint types unit

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/dev
	$(BIN)/mypy

unit: $(VENV)/dev tests/contract/node_modules/.installed
	$(BIN)/python -m pytest $(EACH_CORE)

# What `make test` runs, with all examples of property tests, all seeds of simulations, all inputs (tests/kit/depth.py): two
# and a half times as many. SEED of Hypothesis: other examples.
thorough: $(VENV)/dev tests/contract/node_modules/.installed
	$(BIN)/python -m pytest $(EACH_CORE) --hypothesis-profile thorough $(if $(SEED),--hypothesis-seed $(SEED)) $(TESTS)

# The compiled build, which is what the image has: a wheel of it in an environment of its own, and all tests there but those
# of others' clients. Needs a C compiler and Python's headers (setup.py), and some 15 minutes; `make test` has a part of it.
# TESTS: those alone.
COMPILED := $(VENV)/compiled
test-compiled: $(VENV)/dev tests/contract/node_modules/.installed
	$(BIN)/python -m tests.kit.compiled $(COMPILED)
	cd $(COMPILED)/tree && ../env/bin/python -m pytest $(EACH_CORE) --ignore tests/clients $(TESTS)

# Clients that others wrote, on their defaults, in front of the daemon: what each is told, and what is there. Builds those
# whose runtime is here (JDK and Maven, Go, npm); AWS CLI v2 is tried if `aws` on the path is one. CLIENT, CASE: one of
# them only. WRITE=1: writes docs/clients.md.
CLIENTS := tests/clients/programs
clients: $(VENV)/dev
	-command -v mvn >/dev/null && cd $(CLIENTS)/java && mvn -q -B compile dependency:copy-dependencies -DoutputDirectory=target/jars
	-command -v go >/dev/null && cd $(CLIENTS)/go && go build -o client .
	-command -v go >/dev/null && cd $(CLIENTS)/telegraf && go build -o client .
	-command -v npm >/dev/null && npm ci --silent --no-audit --no-fund --ignore-scripts --prefix $(CLIENTS)/node
	-$(MAKE) --no-print-directory --keep-going $(VENV)/clients/aws-cli/.installed $(VENV)/clients/quixstreams/.installed
	-command -v apt-get >/dev/null && $(MAKE) --no-print-directory $(VENV)/clients/syslog-ng
	$(BIN)/python -m tests.clients $(if $(CLIENT),--client $(CLIENT)) $(if $(CASE),--case $(CASE)) $(if $(WRITE),--write)

# Clients whose packages do not go together with those of the project.
$(VENV)/clients/%/.installed: $(CLIENTS)/python/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

# Debian's packages of it, and of what it needs that this machine lacks; unpacked (4 MB), nothing is installed.
SYSLOG_NG := syslog-ng-core syslog-ng-mod-http
$(VENV)/clients/syslog-ng:
	rm -rf $@.part && mkdir -p $@.part && chmod a+rwx $@.part
	cd $@.part && apt-get download $$( (printf '%s\n' $(SYSLOG_NG); apt-get install --simulate --no-install-recommends $(SYSLOG_NG) \
	  | awk '/^Inst/ { print $$2 }') | sort -u) && for each in *.deb; do dpkg -x $$each . && rm $$each || exit 1; done && test -x usr/sbin/syslog-ng
	mv $@.part $@

# Alerts and dashboard at a real Prometheus and promtool: those on the path, or else those of Debian's package, unpacked
# into the environment (19 MB; nothing is installed). Without them these tests are skipped, visibly.
alerts: $(VENV)/dev
	command -v promtool >/dev/null && command -v prometheus >/dev/null || $(MAKE) --no-print-directory $(VENV)/prometheus \
	  || echo "no Prometheus here, and no apt-get that has it: its tests will be skipped"
	$(BIN)/python -m pytest -q tests/unit/deploy/test_alerts.py tests/process/test_prometheus.py

$(VENV)/prometheus:
	rm -rf $@.part && mkdir -p $@.part && chmod a+rwx $@.part
	cd $@.part && apt-get download prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb
	mv $@.part $@

# The manifests as kubectl and helm make them, and against the schemas of Kubernetes. A helm on the path, or else one that
# Go builds into the environment (two minutes); 108 MB of schemas beside it. Without them these tests are skipped, visibly.
charts: $(VENV)/dev
	command -v helm >/dev/null || $(MAKE) --no-print-directory $(VENV)/helm/helm || echo "no helm here, and no Go to build one"
	$(MAKE) --no-print-directory $(VENV)/kubernetes || echo "no schemas of Kubernetes here"
	$(BIN)/python -m pytest -q -rs tests/unit/deploy

$(VENV)/helm/helm:
	GOBIN=$(CURDIR)/$(@D) go install helm.sh/helm/v3/cmd/helm@v3.16.4

# Beside the environment, not in it: nothing else needs them.
$(VENV)/kubernetes: tests/kit/kubernetes-requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --target $@ -r $<
	touch $@

# Every flight out of New York in 2013 through the daemon and back. FLIGHTS names the file (csv.gz).
demo: $(VENV)/dev
	$(BIN)/python -m bench.demo $(if $(FLIGHTS),--flights $(FLIGHTS))

# What is written from the code: config.example.toml, and the tables of settings, metrics and figures in docs/.
docs: $(VENV)/dev
	$(BIN)/python -m tests.kit.pages

# The daemon beside its peers, pinned to one core, and the spool; both write bench/RESULTS.md.
bench: $(VENV)/dev
	$(BIN)/python -m bench.compare --write
	$(BIN)/python -m bench.spool --write

# Kill the daemon under load, again and again, or have its power fail, and recount. KILLS (200), LOSSES (200: they need
# Linux and a C compiler; 0 does without), SEED. OLDER=1: the version before this one lives in turn with it, on one spool.
crash: $(VENV)/dev
	$(BIN)/python -m tests.crash --kills $(or $(KILLS),200) --losses $(or $(LOSSES),$(if $(OLDER),0,200)) $(if $(OLDER),--older) $(if $(SEED),--seed $(SEED))

# Everything at once for MINUTES (10; hours, too): foul weather, two services, reloads, restarts without a refused connection,
# kills, halts, clock steps; then one long life whose memory and files are watched. SEED; THINK: seconds between requests (1).
soak: $(VENV)/dev
	$(BIN)/python -m tests.crash.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(if $(THINK),--think $(THINK))

# The crash test is tested: each named fault is put into a copy of kdaemon, and must be noticed.
crash-oracle: $(VENV)/dev
	$(BIN)/python -m tests.crash --faults

# A start, a repair, files made anew: a kill or a loss of power at DEATHS (200) of their operations each.
crash-start: $(VENV)/dev
	POWER_DEATHS=$(or $(DEATHS),200) $(BIN)/python -m pytest tests/model/test_power_start.py

# Inputs without end at every reader (tests/fuzz). MINUTES for each target (1), TARGET, SEED, INPUTS.
fuzz: $(VENV)/dev $(VENV)/atheris
	PYTHONPATH=$(VENV)/atheris $(BIN)/python -m tests.fuzz $(if $(INPUTS),--inputs $(INPUTS),--minutes $(or $(MINUTES),1)) \
	  $(if $(TARGET),--target $(TARGET)) $(if $(SEED),--seed $(SEED))

# Beside the environment, not in it: there is a build of it for CPython 3.11 on Linux only.
$(VENV)/atheris: tests/fuzz/requirements.txt $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
	  --upgrade --target $@ -r tests/fuzz/requirements.txt \
	  || echo "no atheris for this Python: inputs will be random ones"
	mkdir -p $@ && touch $@

# The man page, which each wheel has in it: kdaemon.1 in build/.
man: $(VENV)/runtime
	mkdir -p build && $(BIN)/python -m kdaemon.cli.manual > build/kdaemon.1
	@echo "build/kdaemon.1: man -l build/kdaemon.1"

# What a release is made of, from the runtime lock: build/kdaemon.cdx.json (CycloneDX). The same lock, the same file.
sbom: $(VENV)/runtime $(VENV)/sbom/.installed
	mkdir -p build
	sed "s/^dynamic = .*/version = \"$$($(BIN)/python -c 'import kdaemon; print(kdaemon.__version__)')\"/" pyproject.toml > build/pyproject.toml
	PYTHONWARNINGS=ignore::UserWarning $(VENV)/sbom/bin/cyclonedx-py requirements --pyproject build/pyproject.toml \
	  --output-reproducible --output-file build/kdaemon.cdx.json requirements.lock
	@echo build/kdaemon.cdx.json

$(VENV)/sbom/.installed: deploy/sbom-requirements.lock
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "kdaemon needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.12 run" % v[:2])'
	$(PYTHON) -m venv $(VENV)

# The runtime lock, then the project itself with nothing else resolved.
$(VENV)/runtime: $(VENV)/bin/python requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Most modules of what tests need are never imported: each is compiled when it first is.
$(VENV)/dev: $(VENV)/runtime requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-compile -r requirements-dev.lock
	touch $@

# Emulators of Kinesis that others wrote (contract tests); without node those tests are skipped, visibly.
tests/contract/node_modules/.installed: tests/contract/package-lock.json
	@if command -v npm >/dev/null; then \
	  npm ci --silent --no-audit --no-fund --ignore-scripts --prefix tests/contract && touch $@; \
	else echo "no npm here: contract tests against kinesalite and kinesis-local will be skipped"; fi

# Resolve the locks anew (maintainers only).
lock: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf $(VENV) build tests/contract/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
