# make demo   the whole method on real simulators, in minutes: collect, pretrain, finetune, evaluate
# make test   the tests
# make coverage   the same, and which lines they reach
# make test-maniskill   those of ManiSkill, which it installs: a minute's wait for its first picture
# make lint   ruff and mypy, as in CI
# make fresh  the first two on a clean Debian in a folder: SUITE=trixie, COMMAND='make test'
# make test-browser  the latent explorer in Debian's Chromium; SHOTS=… keeps pictures of it
# make faults real runs, killed, starved and fed with damage; writes tests/faults/README.md
# make fuzz   a hundred thousand damaged and malicious inputs
# make export FROM=… TO=…   a pretrained predictor in the authors' format
# make setup  only the set-up that the others do first: .venv, requirements, a headless GL library

# The first of these that is installed and suits: mujoco 3.3.0 has no wheel for Python 3.14.
PYTHON ?= python3 python3.13 python3.12 python3.11 python3.10
VENV ?= .venv
DEMO ?= runs/demo
BIN := $(VENV)/bin
PY := $(BIN)/python

.DELETE_ON_ERROR:
.PHONY: demo test test-browser test-maniskill vulkan coverage lint format fresh setup gl export faults fuzz

setup: $(VENV)/.run $(VENV)/.dev gl

$(BIN)/python:
	@for python in $(PYTHON); do \
	  "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	    2>/dev/null || continue; \
	  "$$python" -m venv $(VENV) 2>/dev/null && exit; \
	  [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv \
	    && "$$python" -m venv $(VENV) && exit; \
	  echo "no virtual environment could be made: apt-get install python3-venv"; exit 1; \
	done; \
	echo 'Python 3.10 to 3.13 is needed: uv python install 3.12, then' \
	  'make $(MAKECMDGOALS) PYTHON=$$(uv python find 3.12)'; exit 1

$(VENV)/.run: requirements.txt constraints.txt | $(BIN)/python
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps dm_control -c constraints.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt constraints.txt $(VENV)/.run
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	@touch $@

# MuJoCo draws through EGL on a GPU and through OSMesa without one.
gl: $(VENV)/.run
	@$(PY) -c 'from envs import choose_backend; choose_backend()' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get update -qq && apt-get install -y -qq libosmesa6; } \
	  || { echo "headless rendering needs a GL library: sudo apt-get install libosmesa6"; exit 1; }

LAPTOP = defaults dmc2gym cpu demo
COLLECTED = $(DEMO)/dmc2gym_reacher_easy/dreamerv2/seed_0
PRETRAINED = $(DEMO)/dmc2gym_reacher_easy/pretrain/seed_0
FINETUNED = $(DEMO)/dmc2gym_cheetah_run/diswm/seed_0

demo: $(VENV)/.run gl
	@echo "1/4 collect: a random policy's videos of Reacher Easy under changing colours"
	$(PY) dreamer.py --configs $(LAPTOP) collect --task dmc2gym_reacher_easy \
	  --prefill 1000 --steps 0 --logdir $(DEMO)
	@echo "2/4 pretrain: a video predictor on them, without actions"
	$(PY) dreamer.py --configs $(LAPTOP) --task dmc2gym_reacher_easy --beta_vae_pretrain True \
	  --beta_vae True --pretrain_action_num 2 --pretrain_datasets_path $(COLLECTED)/train_eps \
	  --logdir $(DEMO)
	@echo "3/4 finetune: DisWM on Cheetah Run, distilled from it; colours switch half-way"
	$(PY) dreamer.py --configs $(LAPTOP) --task dmc2gym_cheetah_run --method_name diswm \
	  --beta_vae True --distillation True --source_action_num 2 --color_distractor True \
	  --traverse True --pretrain_checkpoint_path $(PRETRAINED) --logdir $(DEMO)
	@echo "4/4 draw the learning curve, and say what it has come to"
	$(PY) -m figures.learning_curve $(FINETUNED) --output $(DEMO)/learning_curve.png
	@echo
	@echo "TensorBoard          $(BIN)/tensorboard --logdir $(DEMO)"
	@echo "traversal            $(PRETRAINED)/traverse.png"
	@echo "open-loop prediction $(FINETUNED)/pictures/eval_openl.gif"
	@echo "evaluation           $(FINETUNED)/pictures/eval_policy.gif"
	@echo "learning curve       $(DEMO)/learning_curve.png"

export: $(VENV)/.run
	@test -n "$(FROM)" -a -n "$(TO)" || { echo "make export FROM=<pretraining> TO=<folder>"; exit 1; }
	$(PY) dreamer.py --configs defaults dmc2gym --pretrain_checkpoint_path "$(FROM)" --export_checkpoint "$(TO)"

test: $(VENV)/.dev gl
	$(PY) -m pytest -n 2 --dist worksteal

# axe-core looks for what shuts people out; no part of it is kept here.
AXE = axe-core@4.14.1
$(VENV)/.browser: requirements-browser.txt constraints.txt $(VENV)/.dev
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-browser.txt -c constraints.txt
	npm install --silent --no-save --prefix $(VENV)/axe $(AXE) \
	  || { echo "the check of accessibility needs npm: sudo apt-get install npm"; exit 1; }
	@command -v chromium-headless-shell chromium >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium-headless-shell; } \
	  || { echo "a browser is needed: sudo apt-get install chromium-headless-shell"; exit 1; }
	@touch $@

test-browser: $(VENV)/.browser gl
	AXE=$(VENV)/axe/node_modules/axe-core/axe.min.js SHOTS=$(SHOTS) $(PY) -m pytest -n 0 -m browser tests/explorer

test-maniskill: $(VENV)/.maniskill vulkan gl
	$(PY) -m pytest -n 0 -m maniskill tests/envs/test_maniskill.py tests/integration/test_maniskill.py

$(VENV)/.maniskill: requirements-maniskill.txt constraints.txt $(VENV)/.dev
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-maniskill.txt -c constraints.txt
	@touch $@

# ManiSkill draws through Vulkan: by a GPU's driver, or by SwiftShader, which Debian's Chromium brings.
vulkan: $(VENV)/.run
	@$(PY) -c 'from envs.vulkan import find_driver; find_driver()' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-common libvulkan1; } \
	  || { echo "ManiSkill needs Vulkan: sudo apt-get install chromium-common libvulkan1"; exit 1; }

coverage: $(VENV)/.dev gl
	$(PY) -m pytest -n 2 --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=85

faults: $(VENV)/.dev gl
	$(PY) -m pytest -q -m faults tests/faults
	$(PY) -m tests.faults

fuzz: $(VENV)/.dev gl
	HYPOTHESIS_PROFILE=long $(PY) -m pytest -n auto tests/fuzz

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fresh:
	bash tests/fresh_machine.sh

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
