# Two commands for a fresh machine with Python 3.10 to 3.14, its venv module and make: `make export` and `make test`.
# Everything is installed into .venv; nothing outside this folder is touched.

PYTHON ?= python3
TORCH_INDEX ?=
CAMERA ?= sample
IMAGE ?= docs/desk.jpg
ONLY ?=
FONTS ?=
VENV := .venv
PEERS := .venv-peers
READING_PEERS := .venv-reading-peers
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NEEDS := pyproject.toml requirements.lock
# A process with one thread for each processor; one that has nothing left takes tests from another.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help export test test-slow test-demo test-pythons coverage pi lint docs release-check best peers networks reading-peers evidence demo predict lock clean
.DELETE_ON_ERROR:

help: ## say what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 15
	@echo
	@echo 'PYTHON=python3.12   the Python that makes .venv (now $(PYTHON))'
	@echo 'TORCH_INDEX=URL     a package index with the torch to take, for example the CPU build:'
	@echo '                    make export TORCH_INDEX=https://download.pytorch.org/whl/cpu'

export: $(VENV)/installed-export ## export the shipped checkpoint in six formats and prove that they are the same model
	$(BIN)/edge-mnist export --int8

test: $(VENV)/installed-dev ## run the tests
	$(PARALLEL)

test-slow: $(VENV)/installed-dev ## run the slow tests: packaging, an emulated Haswell, the demo in a browser and a window
	$(BIN)/python -m pytest -m slow

test-demo: $(VENV)/installed-dev ## run the slow tests of the demo: browser, window, broker; EDGE_MNIST_SOAK=10 minutes of full speed
	$(BIN)/python -m pytest -m slow -rs tests/demo/test_demo.py tests/demo/test_browser.py tests/demo/test_window.py tests/demo/test_mqtt.py tests/demo/test_connections.py tests/fuzz/test_fuzz_requests.py

test-pythons: $(VENV)/installed-dev ## run the tests without torch under the oldest and the newest Pythons, as far as they are here
	BIN='$(BIN)' .ci/test-pythons 3.10 3.13 3.14

coverage: $(VENV)/installed-dev ## run the tests and measure which lines they reach; fails below the floor in pyproject.toml
	$(PARALLEL) --cov --cov-report=term:skip-covered

pi: $(VENV)/installed-dev ## prove the package in an emulated Raspberry Pi, and its budgets: 15 minutes, on an x86_64 Debian, as root
	$(BIN)/python -m pytest -m pi -rsA --durations=10

demo: $(VENV)/installed-demo ## read numbers live from a drawn scene, on a page in the browser; CAMERA=0 for a camera
	$(BIN)/edge-mnist demo --camera '$(CAMERA)'

predict: $(VENV)/installed-demo ## read the numbers in IMAGE, by default docs/desk.jpg
	@$(if $(filter docs/desk.jpg,$(IMAGE)),echo 'written on docs/desk.jpg: 39021 584288 00869')
	$(BIN)/edge-mnist predict '$(IMAGE)'

lint: $(VENV)/installed-dev ## check style, formatting, types and the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --quiet --offline .github/workflows
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml

release-check: $(VENV)/installed-dev ## build the sdist and the wheel, and try the wheel in a new environment, as a release does
	$(BIN)/python .ci/release.py check $(TAG)
	rm -rf dist
	$(BIN)/python .ci/release.py build dist
	$(BIN)/python .ci/release.py try dist

# The page with the network as WebAssembly needs clang and lld; without them, the site is built without that page.
docs: $(VENV)/installed-dev ## build the site into build/site: open build/site/index.html; a broken link is an error
	@if command -v clang && command -v wasm-ld; then $(BIN)/edge-mnist export --quiet --int8 --format wasm --no-verify --out build/wasm; fi > /dev/null
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

best: $(VENV)/installed-dev ## train a network like the shipped one and its two teachers into runs/best, with the fonts in FONTS: 4 hours on 2 cores
	$(PIP) install --constraint requirements.lock --group dev --editable '.[all,bench]'
	PYTHON=$(BIN)/python FONTS='$(FONTS)' benchmarks/best.sh runs/best

peers: $(PEERS)/installed ## measure against other tools on MNIST (EDGE_MNIST_DATA), in an environment of its own of 2 GB
	$(PEERS)/bin/python benchmarks/peers.py

reading-peers: $(READING_PEERS)/installed ## read the photographs in EDGE_MNIST_PHOTOS with RapidOCR and Tesseract too: half an hour; keeps their answers in .reading-peers.json
	$(READING_PEERS)/bin/python -m benchmarks.reading_peers '$(EDGE_MNIST_PHOTOS)/truth.json'

networks: $(PEERS)/installed ## measure other people's networks against other tools; keeps what it has measured in .networks
	$(PEERS)/bin/python benchmarks/networks.py

evidence: $(VENV)/installed-dev $(if $(filter-out docs/benchmarks.md docs/comparison.md,$(ONLY)),,$(PEERS)/installed) $(if $(filter-out docs/reading.md,$(ONLY)),,$(READING_PEERS)/installed) ## renew the figures and pictures of the documents: an hour, idle, as root; or ONLY=docs/NAME
	$(PIP) install --constraint requirements.lock --group dev --editable '.[all,bench]'
	$(BIN)/python -m benchmarks.evidence $(ONLY)

# uv resolves for all supported Pythons and systems at once. The CUDA libraries are left out: torch pins its own.
lock: $(VENV)/installed-dev ## renew requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-python-downloads --no-header --no-annotate \
		--extra all --group dev pyproject.toml --output-file $(VENV)/resolved
	{ echo '# The versions that the checks run with, for every supported Python. Renewed by `make lock`.'; \
		grep -vE '^(cuda|nvidia|triton)' $(VENV)/resolved; } > requirements.lock

clean: ## remove .venv, caches, builds and artifacts
	rm -rf $(VENV) $(VENV)-3.* $(PEERS) $(READING_PEERS) .networks .reading-peers.json .coverage .pi artifacts build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed-export: $(VENV)/torch-chosen $(NEEDS)
	$(PIP) install --constraint requirements.lock --editable '.[train,onnx]'
	@touch $@

$(VENV)/installed-demo: $(VENV)/made $(NEEDS)
	$(PIP) install --constraint requirements.lock --editable '.[headless]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/torch-chosen $(NEEDS)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --constraint requirements.lock --group dev --editable '.[all]'
	@touch $@

# The other tools disagree with the lock about packages that are not measured; those that are stay the same.
$(PEERS)/installed: requirements.lock benchmarks/peers.txt | $(VENV)/made
	'$(PYTHON)' -m venv --clear $(PEERS)
	grep -E '^(torch|torchvision|numpy|onnxruntime|ai-edge-litert)==' requirements.lock > $(PEERS)/constraints.txt
	$(if $(TORCH_INDEX),$(PEERS)/bin/pip install --constraint $(PEERS)/constraints.txt --index-url '$(TORCH_INDEX)' --no-deps torch torchvision)
	$(PEERS)/bin/pip install --disable-pip-version-check --constraint $(PEERS)/constraints.txt --requirement benchmarks/peers.txt --editable .
	@touch $@

# OpenCV and NumPy are those of the lock, which has OpenCV's other build.
$(READING_PEERS)/installed: requirements.lock benchmarks/reading_peers.txt | $(VENV)/made
	'$(PYTHON)' -m venv --clear $(READING_PEERS)
	sed -nE 's/^opencv-python-headless==/opencv-python==/p; /^(numpy|onnxruntime|ai-edge-litert)==/p' requirements.lock > $(READING_PEERS)/constraints.txt
	$(READING_PEERS)/bin/pip install --disable-pip-version-check --constraint $(READING_PEERS)/constraints.txt --requirement benchmarks/reading_peers.txt --editable .
	@touch $@

# Installed first and alone, torch satisfies the requirement that would otherwise bring the package index's own build.
$(VENV)/torch-chosen: $(VENV)/made $(NEEDS)
	$(if $(TORCH_INDEX),$(PIP) install --constraint requirements.lock --index-url '$(TORCH_INDEX)' --no-deps torch torchvision)
	@touch $@

$(VENV)/made:
	@command -v '$(PYTHON)' > /dev/null || \
		{ echo 'make: $(PYTHON) is not there: apt install python3 python3-venv, or make PYTHON=python3.12' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' || \
		{ found=$$('$(PYTHON)' --version 2> /dev/null | head -n 1); \
		echo "make: $(PYTHON) is $${found:-no Python that runs}, 3.10 to 3.14 is needed: make PYTHON=python3.12" >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo 'make: $(PYTHON) cannot make virtual environments: apt install python3-venv' >&2; exit 1; }
	'$(PYTHON)' -m venv --clear $(VENV)
	@touch $@
