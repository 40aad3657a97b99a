# `make` alone lists what there is. Everything runs in .venv, which is made from requirements.lock when it is missing
# or older than the lock file.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test faults fuzz load mutants bench gpu tables weights lint lock
help:
	@echo "make demo    trains, evaluates and draws on the embedded set (three to six minutes on two cores)"
	@echo "make test    runs the test suite"
	@echo "make tables  runs the paper's tables by analogy, short, on the embedded set; TABLES='--data FILE --seeds 3' for all"
	@echo "make weights CMU=cmu_bvh.zip  makes the released weights anew (about 40 minutes)"
	@echo "make faults  hurts training runs in every way there is and prints what they survived (about fifteen minutes)"
	@echo "make fuzz    feeds 1,000 damaged files to every reader (half an hour); FUZZ='--only store --inputs 100' for some"
	@echo "make load    ten thousand lifts, five million poses, two hundred trainings (fifteen minutes); LOAD='--only score' for some"
	@echo "make mutants puts faults into the core and counts those that no test notices (hours); MUTANTS='--each 20' for some"
	@echo "make bench   times the fast paths and writes bench.json"
	@echo "make gpu     tests and times everything on a GPU, in ten minutes, and writes gpu.md; nothing without a GPU"
	@echo "make lint    ruff and mypy"
	@echo "make lock    writes requirements.lock anew from pyproject.toml"

demo: .venv/ready
	$(BIN)/python run_lifting.py demo

# Processes of one thread each, because torch's threads would wait for each other; one more than there are cores, because
# many tests wait for a process of their own. A file's tests share fixtures. Compiled files are kept, whatever the shell
# says: hundreds of processes import the package.
test: .venv/ready
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || echo "no chromium here: the tests of the viewer's page are skipped"
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 PYTHONWARNDEFAULTENCODING=1 $(BIN)/python -m pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile --no-loadscope-reorder

bench: .venv/ready
	$(BIN)/python -m tests.benchmarks

faults: .venv/ready
	$(BIN)/python -m tests.faults

fuzz: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(FUZZ)

load: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.load $(LOAD)

gpu: .venv/ready
	$(BIN)/python -m tests.gpu

mutants: .venv/ready
	$(BIN)/python -m pip install --quiet cosmic-ray==8.7.0 coverage==7.17.5
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(MUTANTS)

TABLES ?= --short --seeds 1 --jobs 2
tables: .venv/ready
	for table in densities flows lifters; do \
	  $(BIN)/python -m lifting.series configs/series/$$table.yaml --output checkpoints/tables/$(if $(findstring --short,$(TABLES)),short,long)/$$table $(TABLES) || exit; \
	done
	$(BIN)/python -m tests.benchmarks --only step --output checkpoints/tables/overhead.json

# One thread of a CPU, so that every machine of one kind gets the same bits.
RELEASED := checkpoints/released/srnet_rle
LICENCE := MIT; trained on motion of the CMU Graphics Lab Motion Capture Database (mocap.cs.cmu.edu, funding NSF EIA-0196217)
weights: .venv/ready
	rm -rf checkpoints/weights
	$(BIN)/python data/prepare_cmu.py $(CMU) --fps 30 --output data/cmu_h36m.h5
	$(BIN)/python data/prepare_cmu.py $(CMU) --fps 30 --places coco --output data/cmu_coco.h5
	OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= $(BIN)/python run_lifting.py train --config configs/lifting/released_srnet.yaml --output checkpoints/weights
	$(BIN)/python run_lifting.py export --checkpoint checkpoints/weights/last.pt --output $(RELEASED).pt --licence "$(LICENCE)"
	# From the released .pt, whose name and hash it records: last.pt also holds what its run measured.
	$(BIN)/python run_lifting.py export --checkpoint $(RELEASED).pt --output $(RELEASED).onnx --licence "$(LICENCE)"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lock:
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet "setuptools>=77" torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//' > requirements.lock
