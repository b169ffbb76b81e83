#!/usr/bin/env bash
# Uses an installed jensen outside of the source tree: tests/smoke.sh FOLDER, where FOLDER has its jensen and python.
set -euo pipefail
bin=$(cd "$1" && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
unset PYTHONPATH
export JENSEN_CACHE=$place/cache

"$bin/pip" check
"$bin/python" -c 'import jensen, sys; assert jensen.__file__.startswith(sys.prefix), jensen.__file__'
"$bin/jensen" --version
"$bin/jensen" recipes >recipes.txt
grep -q '^captcha ' recipes.txt
"$bin/jensen" check dirac-gan/equilibrium >laws.txt
"$bin/jensen" train captcha --out run --steps 2 --batch-size 8 --set data.pictures=64 --set data.test=20 \
  --set network.widths=[8,16] --set network.blocks=1 --set sampling.steps=2 --set judging.samples=20 \
  --set judging.rows=16 --set judging.scales=[1.0] >train.txt
"$bin/jensen" sample run --text 7038 --seed 5 --out x.png
"$bin/jensen" evaluate run >evaluate.txt
test -s x.png && test -s run/evaluation.json && test -s run/report.html && test -s run/model.safetensors
echo "smoke test: $("$bin/jensen" --version) trained, drew and judged outside of its source tree"
