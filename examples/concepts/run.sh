#!/usr/bin/env bash
# From ten rows to a merged model. MODEL is a folder or a hub id, STEPS the optimizer steps of each training.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
MODEL=${MODEL:-lmrl/data/demo}
STEPS=${STEPS:-10}

python recipes/sft.py --config examples/concepts/job.yaml --model_name_or_path "$MODEL" --max_steps "$STEPS"
python recipes/ppo_gen.py --config examples/concepts/job.yaml --max_steps "$STEPS"
python recipes/evaluate_gen.py --config examples/concepts/job.yaml --run runs/concepts/ppo
lmrl merge runs/concepts/ppo runs/concepts/merged
lmrl generate runs/concepts/merged '{"concepts": ["cat", "sofa", "sleep"]}' --greedy
