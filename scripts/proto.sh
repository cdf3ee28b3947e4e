#!/usr/bin/env bash
# Regenerates the code beside the .proto files. With --check: fails if what is committed is stale.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
out=proto
if [ "${1:-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
python -m grpc_tools.protoc -I proto -I "$(python -c 'import grpc_tools, os; print(os.path.join(os.path.dirname(grpc_tools.__file__), "_proto"))')" \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  proto/interlock/governance/v1/*.proto
if [ "${1:-}" = --check ]; then
  for f in "$out"/interlock/governance/v1/*; do
    cmp -s "$f" "proto/interlock/governance/v1/$(basename "$f")" || { echo "stale: $(basename "$f"); run 'make proto'" >&2; exit 1; }
  done
fi
