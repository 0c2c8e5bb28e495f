# make demo and make test need Python 3.11 and nothing else; the first of them sets .venv up.

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: setup demo studio align test check format docs evidence oracles bench engine scale-test staleness clean

setup: $(STAMP)

# Run again only when the project's requirements change.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[data,imdb,gguf,quantize,metrics,images,wandb,mlflow,sso,postgres,control,docs,dev]'
	touch $(STAMP)

# A demo that was interrupted goes on; one that is finished is shown again. `make clean` removes it.
demo: setup
	@if [ -f demo/report.html ]; then \
		echo "demo/report.html is there already; \`make clean\` removes it, then \`make demo\` makes it anew"; \
	else \
		$(BIN)/prefloop run toy --out demo $$([ -d demo ] && echo --resume true); \
	fi
	@echo
	@echo "The report:           demo/report.html"
	@echo "Label your own:       $(BIN)/prefloop label serve --store demo/prefloop.db"
	@echo "Then train on them:   $(BIN)/prefloop reward --model demo/sft/final --data store --data.select.judged_by human --batch_size 4 --out demo/reward-mine"
	@echo "                      $(BIN)/prefloop dpo --model demo/sft/final --data store --data.select.judged_by human --batch_size 4 --out demo/dpo-mine"
	@echo "Talk to the policy:   $(BIN)/prefloop chat demo/ppo/final"
	@echo "What made it:         $(BIN)/prefloop lineage demo/ppo/final"
	@echo "Change one stage:     $(BIN)/prefloop ppo --config demo/ppo/config.yaml --out demo/ppo-2 --kl.coef 0.05"

# The studio with a team at work in it: people of every role, disagreements, a dataset version, and a training to follow. `make clean` removes it.
PORT ?= 8100
studio: setup
	@$(BIN)/python -m prefloop.studio.demo_team --folder studio-demo --port $(PORT)

# A published model made better by a file of comparisons: make align MODEL=FOLDER DATA=FILE. On two cores in at most an hour by the estimate.
# Interrupted, it goes on; finished, it is shown again. ARGS='--method dpo grpo' and the like are handed on.
MODEL ?=
DATA ?=
MINUTES ?= 50
align: setup
	@test -n "$(MODEL)" -a -n "$(DATA)" || { \
		echo "make align needs a model and comparisons: make align MODEL=FOLDER DATA=comparisons.jsonl"; \
		echo "MODEL is a chat model's folder or hub name (SmolLM2-135M-Instruct, for example), DATA a file that \`prefloop data check FILE\` reads as comparisons."; \
		exit 2; }
	@if [ -f aligned/report.html ]; then \
		echo "aligned/report.html is there already; \`make clean\` removes it, then \`make align\` makes it anew"; \
	elif [ -f aligned/plan.json ]; then \
		$(BIN)/prefloop align --config aligned/config.yaml --resume true; \
	else \
		$(BIN)/prefloop align --model $(MODEL) --data $(DATA) --minutes $(MINUTES) --data.max_completion_tokens 128 --out aligned --yes true $(ARGS); \
	fi
	@echo
	@echo "The report:          aligned/report.html"
	@echo "Talk to the policy:  $(BIN)/prefloop chat aligned/dpo/final"

# JOBS processes, each with one thread: with several, small matrices spend their time waiting for each other, most of all on a busy machine.
# The tests of a file stay in one process, which makes what they share once. Compiled modules are kept, whatever the environment says: the programs
# that tests start import the package each time.
JOBS ?= 2
test: setup
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# Pages are wrapped by mdformat. Those that commands write are left as they are.
WRITTEN := objectives oracles planted_bugs silent_bugs tiny_tasks studies
WRAPPED = $(filter-out $(WRITTEN:%=docs/%.md),$(shell git ls-files README.md CONTRIBUTING.md CHANGELOG.md 'docs/*.md'))
MDFORMAT = $(BIN)/mdformat --wrap 100 --number --compact-tables

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MDFORMAT) --check $(WRAPPED)
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(MDFORMAT) $(WRAPPED)

# The book: build/book/site/index.html, with every link checked. It loads nothing from a network.
docs: setup
	$(BIN)/python -m book

# The studies of docs/studies.md that fit into an hour; says what is left, and how long it takes. DATA=FOLDER has the data sets (alpaca-eval/ and so on), MODEL=FOLDER a chat model.
# Finished studies are kept; one that was interrupted goes on.
evidence: setup
	$(BIN)/prefloop study all --out evidence --minutes 60 $(if $(DATA),--data $(DATA)) $(if $(MODEL),--model $(MODEL))

# Losses beside TRL's and rlax's, which are installed into .oracles the first time: writes docs/oracles.md.
oracles: setup
	$(BIN)/python -m bench.oracles --environment .oracles --out docs/oracles.md

# Beside TRL, in one run; sets TRL up in .venv-trl. DATA=COMPARISONS takes people's; ONLY=dpo-small runs one case; ARGS='--warm 1 --steps 1' makes it short.
# A case that fails is named at the end, after the others; scaling and start-up are measured all the same.
bench: setup
	@failed=0; \
	$(BIN)/python -m bench.versus $(if $(DATA),--data $(DATA)) $(if $(MODEL),--model $(MODEL)) $(if $(ONLY),--only $(ONLY)) $(ARGS) || failed=1; \
	$(if $(ONLY),,$(BIN)/python -m bench.scaling && $(BIN)/python -m bench.scaling --size small && $(BIN)/python -m bench.startup || failed=1;) \
	exit $$failed

# Where an environment with vLLM lies; empty if there is none.
ENGINE ?= $(or $(PREFLOOP_ENGINE),$(wildcard .venv-engine))

# The environment that `prefloop engine serve` starts vLLM in: minutes and gigabytes, once.
engine: setup
	@test -x .venv-engine/bin/python || $(BIN)/prefloop engine install --folder .venv-engine

# A real engine, games of several turns, two machines of which one has the folder, and every stage with its models sharded over processes beside one
# process: a table of the differences.
# See docs/scale.md.
scale-test: setup
	@if [ -n "$(ENGINE)" ]; then \
		PREFLOOP_ENGINE=$(ENGINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/end_to_end/test_real_engine.py || exit $$?; \
	else echo "no environment with vLLM, so no real engine is tested; \`make engine\` makes one"; fi
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.environment_tasks
	@folder=$$(mktemp -d); OMP_NUM_THREADS=1 $(BIN)/python -m tests.end_to_end.machines $$folder; code=$$?; rm -rf $$folder; exit $$code
	@folder=$$(mktemp -d); OMP_NUM_THREADS=1 $(BIN)/python -m tests.algorithms.sharded table $$folder; code=$$?; rm -rf $$folder; exit $$code
	@echo "not run here: what drawing ahead costs, 24 trainings that take hours; \`make staleness\` does them, and docs/engine.md has what came of it"

# What drawing ahead costs: the table and the picture of docs/engine.md. An interrupted one goes on.
staleness: setup engine
	mkdir -p stale
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.staleness --folder stale --picture docs/staleness.svg $(ARGS)

clean:
	rm -rf demo studio-demo aligned evidence
