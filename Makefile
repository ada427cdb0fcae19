# Everything below sets up what it needs. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two workers on two cores, one thread each: torch and onnxruntime would otherwise start a pool in every worker.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo demo-scale demo-prune demo-fcos demo-retinanet test lint test-torch13 test-upstream bench bench-quantize coverage judge judge-vela judge-ncnn judge-nncase judge-tpu-mlir judge-esp \
	test-toolchains random-models pages clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,images,example,scale,dev]'
	touch $@

demo: $(READY)  ## port YOLOX-nano to the MLU270 at int16 and show what happened
	$(BIN)/python -m examples.yolox_mlu270.demo

demo-prune: $(READY)  ## sparse training, pruning and fine-tuning of a YOLOv3, then int8 and int16 for two devices
	$(BIN)/python -m examples.yolov3_prune.demo

demo-scale: $(READY)  ## the YOLOX that is as accurate as a latency on the MLU270 allows, found by search
	$(BIN)/python -m examples.yolox_scale.demo

demo-fcos: $(READY)  ## FCOS through float, calibration, QAT and integers for Horizon's X5 (ARGS=--scratch trains the float model)
	$(BIN)/python -m examples.fcos_horizon.demo $(ARGS)

demo-retinanet: $(READY)  ## RetinaNet through float, calibration, QAT and integers for Horizon's X5
	$(BIN)/python -m examples.retinanet_horizon.demo $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(READY) lint  ## everything that needs nothing but this repository and the package index
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not torch13 and not toolchain"

test-torch13: $(READY)  ## the bundle in a real torch 1.3.1 on Python 3.7 (found on PATH, in pyenv, or PORTER_PYTHON37)
	$(BIN)/python scripts/torch13_env.py
	$(THREADS) $(BIN)/python -m pytest -m torch13 -rs

test-upstream: $(READY)  ## Megvii's own YOLOX, unmodified (YOLOX_SOURCE=path of a checkout, or it is cloned)
	$(THREADS) $(BIN)/python -m pytest -m upstream -rs

bench: $(READY)  ## speed and memory beside onnxsim, OnnxSlim and onnxscript, in one run
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/run.py

bench-quantize: $(READY)  ## int8, int16 and W8A16 of eight trained models beside five other quantizers (ARGS=--help)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.quantize $(ARGS)

judge: $(READY)  ## porter's verdicts before the vendors' compilers, which are installed where they can be (ARGS=--help)
	$(BIN)/python -m benchmarks.judge $(ARGS)

judge-vela judge-ncnn judge-nncase judge-tpu-mlir judge-esp: judge-%: $(READY)  ## the same for one toolchain
	$(BIN)/python -m benchmarks.judge --toolchain $* $(ARGS)

.venv-coverage/.ready: benchmarks/coverage/requirements.txt
	$(PYTHON) -m venv .venv-coverage
	.venv-coverage/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

coverage: $(READY) .venv-coverage/.ready  ## 37 whole models and the node tests of ONNX for the targets, as tables (ARGS=--help)
	$(THREADS) $(BIN)/python -m benchmarks.coverage $(ARGS)

test-toolchains: $(READY)  ## the adapters before the real compilers, where they are installed
	$(THREADS) $(BIN)/python -m pytest -m toolchain -rs

random-models: $(READY)  ## 1,000 random models through check and rewrite; a failing one is made small (ARGS="--seed 1 --models 100")
	$(THREADS) $(BIN)/python -m benchmarks.random_models $(ARGS)

pages: $(READY)  ## docs/targets and the JSON Schema of targets, from targets/*.toml; docs/rules.md from the rules
	$(BIN)/porter targets pages docs/targets
	$(BIN)/porter rewrites --page docs/rules.md
	$(BIN)/porter targets schema --output porter/schema/target.schema.json --overwrite

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
