#!/usr/bin/env bash
# The same question with the slider at three places, over plain HTTP.
#
#     examples/curl.sh [URL]        the server's address; http://127.0.0.1:8000 if not given
set -euo pipefail

url=${1:-http://127.0.0.1:8000}

for weight in -1 0 1; do
    printf 'positivity %2d: ' "$weight"
    curl --silent --show-error --fail "$url/v1/chat/completions" \
        --header 'Content-Type: application/json' \
        --data '{
            "messages": [{"role": "user", "content": "What do you think of rainy days?"}],
            "max_tokens": 40, "seed": 1, "objective_weights": {"positivity": '"$weight"'}}' |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])'
done
