#!/usr/bin/env bash
# Everything that needs a GPU, in one go of about ten minutes: the smoke tests, then the comparison on a real model.
#
#   MODEL=outputs/real_model/SmolLM2-135M-Instruct TASKS=mbpp.jsonl OUT=outputs/gpu benchmarks/gpu.sh
#
# Started again, the comparison continues where it stopped, if OUT is the same.
set -uo pipefail
cd "$(dirname "$0")/.."
: "${MODEL:?a folder or an id of a chat model}" "${TASKS:?a file of MBPP tasks}"
out=${OUT:-outputs/gpu}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"

timeout 170 "$python" benchmarks/gpu_smoke.py "$MODEL" "$TASKS" --output "$out/gpu_smoke.json" 2>&1 | tee "$out/smoke.log"
# Three runs share the GPU, and the judge has the cores.
timeout "${SECONDS_LEFT:-480}" "$python" benchmarks/real_model.py --model "$MODEL" --tasks "$TASKS" --device cuda \
  --folder "$out/real_model" --rounds 3 --seeds 0 1 2 --train-tasks 240 --held-out-tasks 240 --steps 24 --batch 16 \
  --micro-batch 16 --generation-batch-size 120 --max-completion-length 200 --judge-workers 12 --workers 3 \
  --output "$out/real_model_gpu.json" 2>&1 | tee "$out/real_model.log"
