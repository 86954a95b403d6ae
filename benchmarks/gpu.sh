#!/usr/bin/env bash
# Every number that needs a GPU, in one command of under nine minutes:
#
#   [REFERENCE=PATH] [OUT=FOLDER] [PYTHON=PROGRAM] [FRAMES=N] benchmarks/gpu.sh
#
# REFERENCE is a checkout of qiwang067/DisWM to measure beside ours. A part that fails, or runs out
# of its time, is named at the end and the others go on; the status is then 1. The parts' times add
# up to 8 minutes and 40 seconds at most.
set -uo pipefail
out=${OUT:-results/gpu}
mkdir -p "$out"
out=$(realpath "$out")
frames=${FRAMES:-50000}
reference=()
updates=(exact graphs default)
pretraining=(default)
if [[ -n ${REFERENCE:-} ]]; then
  reference=(--reference "$(realpath "$REFERENCE")")
  updates=(reference "${updates[@]}")
  pretraining=(reference "${pretraining[@]}")
fi
cd "$(dirname "$0")/.."
if [[ -n ${PYTHON:-} ]]; then
  python=$PYTHON
elif [[ -x .venv/bin/python ]]; then
  python=.venv/bin/python
else
  python=python3
fi
export MUJOCO_GL=${MUJOCO_GL:-egl} PYTHONUNBUFFERED=1
failed=()

# part NAME SECONDS COMMAND…: runs it under a limit, keeps what it prints, notes how it ended.
part() {
  local name=$1 limit=$2 started=$SECONDS status
  shift 2
  echo "== $name"
  timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$out/$name.log"
  status=${PIPESTATUS[0]}
  echo "== $name: status $status after $((SECONDS - started)) s"
  if ((status != 0)); then
    failed+=("$name ($status)")
  fi
}

cuda=(--device cuda:0)
part machine 20 "$python" -m benchmarks.machine "${cuda[@]}"
part update 190 "$python" -m benchmarks.update "${cuda[@]}" "${reference[@]}" \
  --settings "${updates[@]}" --rounds 5 --updates 4 --json "$out/update.json"
part pretrain_update 70 "$python" -m benchmarks.pretrain_update "${cuda[@]}" "${reference[@]}" \
  --settings "${pretraining[@]}" --rounds 5 --updates 4 --json "$out/pretrain_update.json"
part acting 25 "$python" -m benchmarks.acting --device cuda "${reference[@]}" \
  --json "$out/acting.json"
part run 170 "$python" dreamer.py --configs defaults dmc2gym --beta_vae True "${cuda[@]}" \
  --steps "$frames" --log_every 5000 --eval_every 0 --logdir "$out/run"
part tests 45 "$python" -m pytest -q -m gpu tests

if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
