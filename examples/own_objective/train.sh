#!/usr/bin/env bash
# Trains a slider for questions on the embedded base, from the reward in questions.py, and says how to serve it: about a
# quarter of an hour on two CPU cores. With LIMIT 8 it takes two minutes, and learns nothing from so little.
#
#     examples/own_objective/train.sh [LIMIT] [FOLDER]
#
# LIMIT: use only so many prompts of each split, to try it out. FOLDER: where everything goes; runs/questions if not given.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(realpath -m "${2:-runs/questions}")
limit=(${1:+--limit "$1"})

cd "$here" # where the recipe's module `questions` is found
mavis train run recipe.yaml --run-dir "$folder" --export "$folder/values" "${limit[@]}"
printf 'serve it: mavis serve --values %s\n' "$folder/values"
