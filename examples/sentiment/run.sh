#!/usr/bin/env bash
# A classifier as the reward, and a control. MODEL is a folder or a hub id, STEPS the optimizer steps of each training.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
MODEL=${MODEL:-lmrl/data/demo}
STEPS=${STEPS:-10}

python recipes/train_classifier.py --config examples/sentiment/job.yaml --max_steps "$STEPS"
python recipes/reinforce_gen.py --config examples/sentiment/job.yaml --model_name_or_path "$MODEL" --max_steps "$STEPS"
python recipes/reinforce_gen.py --config examples/sentiment/job.yaml --model_name_or_path "$MODEL" --max_steps "$STEPS" \
    --rewards examples/sentiment/control.py:coin --output_dir runs/sentiment/control
python recipes/evaluate_gen.py --config examples/sentiment/job.yaml --run runs/sentiment/steered \
    --checkpoints "start=$MODEL" steered=runs/sentiment/steered control=runs/sentiment/control
