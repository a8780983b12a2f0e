# From a machine with Python 3.11+ and make: everything else is installed into .venv.

# Tried in this order; `make PYTHON=/path/to/python3 env` names one.
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.12 python3.11 python3 python3.13)
BIN := .venv/bin
READY := .venv/.ready

# What lies on these paths would mix with the environment. The pinned torch is the one of the default index.
# The demo's data lies here, wherever other data does.
unexport PYTHONPATH PYTHONHOME UV_TORCH_BACKEND RICHSEM_DATA

.PHONY: help env demo demo-cache demo-windows demo-compare demo-table4 drop-annotations evidence test lint docs \
  docs-serve requirements clean
.DELETE_ON_ERROR:

help:
	@echo "make demo          set up, make the demo's cache, train a detector without and with it: a table and pictures"
	@echo "make demo-compare  then: five ways to learn from the same pictures, three seeds each; over an hour"
	@echo "make demo-table4   then: the supplement's table 4 in small, Detic and RichSem in two detectors; some hours"
	@echo "make drop-annotations  then: the same on fewer and fewer boxes, without and with soft labels; some hours"
	@echo "make evidence      set up, train by cached labels and by online ones, arm by arm; many hours, goes on where it stopped"
	@echo "make test          set up, run the tests; ARGS='-m slow' passes options to pytest"
	@echo "make lint          set up, check format, style, types and imports"
	@echo "make docs          set up, write the reference from the code, build the pages into build/site"
	@echo "make docs-serve    then serve them on this machine, anew after each change"
	@echo "make env           set up .venv with everything that the others need"
	@echo "make requirements  pin the newest versions of all dependencies in requirements.txt"
	@echo "make clean         remove .venv and what tools left behind; data/ and caches/ stay"

env: $(READY)

demo-cache: env
	$(BIN)/richsem-prep shard --dataset demo --root data/demo --out caches/demo --samples-per-shard 256
	$(BIN)/richsem-prep verify caches/demo
	$(BIN)/richsem-prep inspect caches/demo
	$(BIN)/richsem-prep view caches/demo --html caches/demo.html

# What trains is begun once: a run that was stopped goes on, a finished one stays.
TRAIN = $(BIN)/python -m richsem_train

demo: demo-cache
	$(TRAIN) --config demo_baseline --out runs/demo_baseline $$(test ! -e runs/demo_baseline/config.yaml || echo --resume)
	$(TRAIN) --config demo --out runs/demo $$(test ! -e runs/demo/config.yaml || echo --resume)
	$(TRAIN) predict runs/demo_baseline/checkpoints/best.pt $(DEMO_PICTURES) --out runs/demo_baseline/pictures
	$(TRAIN) predict runs/demo/checkpoints/best.pt $(DEMO_PICTURES) --out runs/demo/pictures
	$(TRAIN) compare runs/demo_baseline runs/demo
	@echo "Open these in a browser:"
	@$(BIN)/python -c "import pathlib; [print(pathlib.Path(path).resolve().as_uri()) for path in '$(DEMO_PAGES)'.split()]"

DEMO_PICTURES = $$(ls data/demo/detection/val/*.jpg | head -n 12)
DEMO_PAGES = caches/demo.html runs/demo_baseline/pictures/sheet.jpg runs/demo/pictures/sheet.jpg runs/demo/curves.png

# Hard labels; soft labels on the same pictures; the extra pictures with hard labels; the semantic branch with hard
# labels; cached soft labels.
ARMS = hard_labels soft_detection extra_pictures hard_semantics soft_labels

demo-windows: demo-cache
	$(BIN)/richsem-prep shard --dataset demo-detection --root data/demo --out caches/demo-detection --windows 2

demo-compare: demo-windows
	for seed in 0 1 2; do for arm in $(ARMS); do \
	  out=runs/demo-compare/$$arm-$$seed; \
	  $(TRAIN) --config benchmarks/demo_compare/$$arm.yaml --set seed=$$seed --out $$out \
	    $$(test ! -e $$out/config.yaml || echo --resume) || exit 1; \
	done; done
	$(TRAIN) compare $(foreach arm,$(ARMS),$(foreach seed,0 1 2,runs/demo-compare/$(arm)-$(seed))) --out runs/demo-compare

# The supplement's table 4: Detic and RichSem in DINO, and in the two-stage detector that Detic comes from.
DINO_ROWS = dino_baseline dino_detic dino_richsem
C2_ROWS = c2_baseline c2_detic c2_richsem
runs_of_rows = $(foreach row,$(1),$(foreach seed,0 1 2,runs/demo-table4/$(row)-$(seed)))

demo-table4: demo-windows
	for seed in 0 1 2; do for row in $(DINO_ROWS) $(C2_ROWS); do \
	  out=runs/demo-table4/$$row-$$seed; \
	  $(TRAIN) --config benchmarks/table4/$$row.yaml --set seed=$$seed --out $$out \
	    $$(test ! -e $$out/config.yaml || echo --resume) || exit 1; \
	done; done
	$(TRAIN) compare $(call runs_of_rows,$(DINO_ROWS)) --out runs/demo-table4/dino
	$(TRAIN) compare $(call runs_of_rows,$(C2_ROWS)) --out runs/demo-table4/c2

# The supplement's figure 2 (a). A seed is of the training and of the boxes that are dropped, the same for both arms.
DROP_ARMS = without_semantics with_semantics
DROP_RATIOS = 0 0.25 0.5 0.75
DROP_SEEDS = 0 1 2
# More options of the trainings, such as --set schedule.epochs=1.
DROP_OPTIONS =

drop-annotations: demo-windows
	for seed in $(DROP_SEEDS); do for ratio in $(DROP_RATIOS); do \
	  partial=drop-annotations/$$ratio-$$seed.json; \
	  test -e data/$$partial || $(BIN)/richsem-prep drop-annotations $(DEMO_ANNOTATIONS) --ratio $$ratio --seed $$seed \
	    --out data/$$partial || exit 1; \
	  for arm in $(DROP_ARMS); do \
	    out=runs/drop-annotations/$$arm-$$ratio-$$seed; \
	    $(TRAIN) --config benchmarks/drop_annotations/$$arm.yaml --set seed=$$seed \
	      --set detection.train.annotations=$$partial $(DROP_OPTIONS) --out $$out \
	      $$(test ! -e $$out/config.yaml || echo --resume) || exit 1; \
	  done; \
	done; done
	$(BIN)/python benchmarks/drop_annotations.py runs/drop-annotations --out runs/drop-annotations

DEMO_ANNOTATIONS = data/demo/detection/annotations/lvis_demo_train.json

# All arms that have no figures yet, tier by tier, then docs/evidence.md.
evidence: env
	$(BIN)/python -m benchmarks.evidence

# Tensors of tests are small: threads cost more than they give.
test: export OMP_NUM_THREADS = 1
test: env
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

lint: env
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Material prints an advertisement against a later MkDocs, which isn't used here.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: env
	$(BIN)/python docs/reference.py
	$(BIN)/mkdocs build --quiet --strict
	@$(BIN)/python -c "import pathlib; print(pathlib.Path('build/site/index.html').resolve().as_uri())"

docs-serve: env
	$(BIN)/mkdocs serve --strict --dev-addr 127.0.0.1:8000 --livereload

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './data/*' -not -path './caches/*' -prune -exec rm -rf {} +

# pip only fetches uv: uv then picks builds of torch and torchvision that fit each other. Torch is large, so uv is
# given time. uv doesn't read pip's configuration; where pip alone has been told of a mirror, uv is told of it too.
# Bytecode is compiled now, once: where it can't be written later, torch takes half a minute to import each time.
$(READY): pyproject.toml requirements.txt | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	PIP_USER=0 PIP_REQUIRE_HASHES=0 $(BIN)/python -m pip install --quiet 'uv>=0.5'
	@export UV_HTTP_TIMEOUT="$${UV_HTTP_TIMEOUT:-300}"; \
	mirror="$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null)}"; \
	if [ -n "$$mirror" ] && [ -z "$$UV_DEFAULT_INDEX$$UV_INDEX_URL$$UV_INDEX$$UV_CONFIG_FILE" ] && \
	  [ ! -e "$${XDG_CONFIG_HOME:-$$HOME/.config}/uv/uv.toml" ] && [ ! -e /etc/uv/uv.toml ]; then \
	  export UV_DEFAULT_INDEX="$$mirror"; fi; \
	echo "uv pip install --requirements requirements.txt --editable ."; \
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes --requirements requirements.txt && \
	UV_REQUIRE_HASHES=0 $(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	@touch $@

$(BIN)/python:
	@for python in $(PYTHONS); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	  found=$$python; \
	  "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || continue; \
	  echo "$$python -m venv .venv"; \
	  exec "$$python" -m venv --clear .venv; \
	done; \
	if [ -n "$$found" ]; then \
	  echo "$$found has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; \
	else \
	  echo "Python 3.11 or newer is needed, and none of these is: $(PYTHONS). Install one, or name it:" >&2; \
	  echo "make PYTHON=/path/to/python3 env" >&2; \
	fi; \
	exit 1

requirements: env
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --group dev \
	  --generate-hashes --no-emit-index-url --no-header --output-file .venv/requirements.txt pyproject.toml
	@echo '# Exact versions of what `make env` installs, with hashes; written by `make requirements`.' > requirements.txt
	cat .venv/requirements.txt >> requirements.txt
