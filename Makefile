# One command each for the things one does here; `make` alone lists them. Set-up is deploy/setup.sh's work.

HOST ?= 127.0.0.1
PORT ?= 8000
# More options for `mavis serve` or pytest, handed on as they are: make serve ARGS="--compile"
ARGS ?=
# Where `make bench` writes its figures, tables and plot.
BENCH ?= docs/evaluation/embedded
# How long `make soak` takes.
MINUTES ?= 20
# Coverage that is told with what comes after.
UNREPORTED = --cov --cov-report= --cov-fail-under=0
# Measures of what the shipped sliders are about, which nothing is trained on.
SECOND = Polarity ReadingEase AskingSentences FewCharacters SharedWords UnlikeInsults
# What takes longest is told at the end: the suite has to stay short.
SLOWEST = --durations 25 --durations-min 3
export PYTHON

.DEFAULT_GOAL := help
# vLLM and Triton look for these when they are imported.
ON_V2 = VLLM_USE_V2_MODEL_RUNNER=1 TRITON_INTERPRET=1 OMP_NUM_THREADS=1
# Lanes of tests side by side: vLLM would bind its worker to the same core in all of them.
UNBOUND = VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1

.PHONY: help serve test lanes-of-servers v2 unit slow soak smoke audit fuzz comply load fix docs check bench train-embedded fast-embedded evaluate-embedded front-embedded candidates-embedded optimum-embedded ablations-embedded experts-embedded compare-embedded lock clean setup setup-dev next-vllm

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

serve: setup ## Set up and serve the embedded model on HOST:PORT (127.0.0.1:8000)
	@exec .venv/bin/mavis serve --host $(HOST) --port $(PORT) $(ARGS)

test: setup-dev ## Set up and run all tests but the slow ones; without ARGS, also those on V2, and coverage has to reach its gate
	@$(if $(ARGS),,rm -f .coverage .coverage.*)
	@$(if $(ARGS),,$(MAKE) --no-print-directory -k -j2 --output-sync=target $(LANES))
	@$(if $(ARGS),,.venv/bin/python -m coverage combine --quiet)
	@.venv/bin/python -m pytest -m "not slow" $(if $(ARGS),$(ARGS),tests/house --cov --cov-append)

# Two at a time, since none uses much more than one core; what takes longest comes first, so that they end together.
LANES = lanes-of-servers v2 lane-training lane-engine lane-http lane-rest
lane-processes: TESTS = -m "processes and not slow" tests/e2e tests/invariants
# The one lane where it does: several ranks it has to bind, and a test looks at what else is where its worker is.
lane-processes: UNBOUND =
lane-server: TESTS = -m "engine and not processes and not slow" tests/e2e
lane-engine: TESTS = -m "engine and not processes and not slow" tests/invariants
lane-training: TESTS = -m "not slow" tests/training
lane-http: TESTS = -m "not engine and not slow" tests/server
lane-rest: TESTS = -m "not engine and not slow" --ignore tests/training --ignore tests/server --ignore tests/house
lane-%: setup-dev
	@COVERAGE_FILE=.coverage.$* $(UNBOUND) .venv/bin/python -m pytest $(TESTS) $(SLOWEST) $(UNREPORTED)

# One after the other: servers of both, and what their tests wait for, would be too much at once.
lanes-of-servers: setup-dev
	@$(MAKE) --no-print-directory lane-processes; processes=$$?; \
		$(MAKE) --no-print-directory lane-server && exit $$processes

v2: setup-dev ## What must hold on the real engine, on vLLM's V2 runner, with Triton's interpreter for its kernels
	@$(ON_V2) $(UNBOUND) .venv/bin/python -m pytest -q -m "engine and not slow" tests/invariants $(SLOWEST) $(ARGS)

unit: setup-dev ## Run the tests that need no engine: some 6 minutes
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "not engine and not slow" $(ARGS)

slow: setup-dev ## Run the slow tests, those on V2 first
	@$(ON_V2) .venv/bin/python -m pytest -q -m "engine and slow" tests/invariants $(ARGS)
	@.venv/bin/python -m pytest -m slow $(ARGS)

soak: setup-dev ## A real server under everything at once for MINUTES (20); fails where anything is wrong
	@.venv/bin/python -m tests.soak --minutes $(MINUTES) $(ARGS)

smoke: setup-dev ## The CPU image's steps in a clean root, and its server guided, scraped and drained; needs root and debootstrap
	@.venv/bin/python -m tests.smoke $(ARGS)

audit: setup-dev ## Bills of materials into build/, and what in them is known to be vulnerable
	@.venv/bin/python deploy/audit.py

fuzz: setup-dev ## A real server under generated requests: at least 2,000 cases
	@.venv/bin/python -m tests.fuzz $(ARGS)

comply: setup-dev ## The OpenAI and Anthropic suites of llm-comply, against this server and against plain vLLM
	@.venv/bin/python -m tests.comply $(ARGS)

fix: setup-dev ## Format, and mend what ruff can mend
	@.venv/bin/python -m ruff format .
	@.venv/bin/python -m ruff check --fix .

next-vllm: ## Test against the newest vLLM there is for a CPU (VLLM=0.33.0: against that one), in an environment of its own
	@deploy/next_vllm.sh $(VLLM)

docs: setup-dev ## Write docs/http-api.md from the models, and build all documents as a site into build/site
	@.venv/bin/python -m server.api.document docs/http-api.md
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet

check: setup-dev ## Format, lint and types
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

load: setup-dev ## What vLLM's load generator (and GuideLLM, with ARGS="--guidellm COMMAND") finds of plain vLLM and of this server
	@.venv/bin/mavis bench tools --out $(BENCH)/tools.json $(ARGS)
	@.venv/bin/mavis bench report $(BENCH)

bench: setup-dev ## Speed without weights and with: in the engine, over HTTP, read and changed meanwhile, a step beside its limit; over an hour
	@.venv/bin/mavis bench --out $(BENCH)/engine.json $(ARGS)
	@.venv/bin/mavis bench http --out $(BENCH)/http.json
	@.venv/bin/mavis bench live --out $(BENCH)/live.json
	@.venv/bin/mavis bench step --out $(BENCH)/step.json
	@.venv/bin/mavis bench report $(BENCH)

train-embedded: setup-dev ## Train the shipped value checkpoint again; resumes where it stopped
	@.venv/bin/mavis train run embedded --export valuemodels/checkpoints/embedded $(ARGS)

fast-embedded: setup-dev ## Give the shipped value checkpoint its fast scoring again; resumes where it stopped
	@.venv/bin/mavis train fast valuemodels/checkpoints/embedded --export valuemodels/checkpoints/embedded $(ARGS)

compare-embedded: setup-dev ## What fast and exact scoring gain for the same KL; resumes where it stopped
	@.venv/bin/mavis compare --samples 2 --out docs/evaluation/embedded/compare.json $(ARGS)

evaluate-embedded: setup-dev ## What each slider of the shipped checkpoint does, measured on held-out prompts
	@.venv/bin/mavis evaluate --out valuemodels/checkpoints/embedded/evaluation.json --prompts held-out.jsonl --limit 208 \
		--samples 1 --weights=-1,-0.75,-0.5,-0.25,0,0.25,0.5,0.75,1 $(SECOND:%=--also training.rewards.second:%) $(ARGS)

front-embedded: setup-dev ## All pairs of sliders traded off, and tilting beside asking for a mix in words; resumes where it stopped
	@.venv/bin/mavis evaluate front --out docs/evaluation/embedded/front --prompts held-out.jsonl \
		--pair positivity,simplicity --pair positivity,conciseness --triple positivity,simplicity,curiosity $(ARGS)

candidates-embedded: setup-dev ## What the number of candidates does to rewards, cost and fluency; resumes where it stopped
	@.venv/bin/mavis evaluate front --out docs/evaluation/embedded/candidates --prompts held-out.jsonl --no-others --samples 1 \
		--run-dir runs/front-candidates --points 6 --tilts 1@112,1@5,1@10,1@20,1,1@256 --pair positivity,simplicity $(ARGS)

optimum-embedded: setup-dev ## How much of what any policy could gain at its KL each slider gains; resumes where it stopped
	@.venv/bin/mavis evaluate optimum --truncated --out docs/evaluation/embedded/optimum.json --prompts held-out.jsonl \
		--weights 0.25,0.5,1 --max-tokens 32 --base-samples 96 --samples 6 $(ARGS)

ablations-embedded: setup-dev ## What the trunk's depth and the number of replies do to exact values; resumes where it stopped
	@.venv/bin/mavis train ablate embedded --vary backbone.layers=2,4,8 --vary fit.replies=2,4 --limit 150 \
		--out docs/evaluation/embedded/ablations.json $(ARGS)

experts-embedded: setup-dev ## Fine-tuned policies, mixed by Rewarded Soups and by MOD, beside tilting; hours; resumes where it stopped
	@for each in positivity simplicity curiosity positivity=1,simplicity=1; do \
		.venv/bin/mavis train expert $$each --pairs 2 --learning-rate 2e-4 || exit; done
	@.venv/bin/mavis evaluate front --out docs/evaluation/embedded/experts --prompts held-out.jsonl --no-others --samples 1 \
		--experts runs/experts --run-dir runs/front-experts --points 6 \
		--tilts 1.15@256,1.1@256,0.95@256,0.75@256,1.15@112,1.1@112 \
		--pair positivity,simplicity --pair positivity,curiosity --pair simplicity,curiosity \
		--triple positivity,simplicity,curiosity --mix positivity=1,simplicity=1 $(ARGS)

lock: ## Resolve requirements/*.in into the pinned requirements/*.txt
	@deploy/lock.sh

clean: ## Remove what tools leave behind; keeps .venv and runs/
	@rm -rf build dist client/build client/dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find server valuemodels training client tests -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@deploy/setup.sh cpu

setup-dev:
	@deploy/setup.sh cpu-dev
