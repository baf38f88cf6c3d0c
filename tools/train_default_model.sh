#!/usr/bin/env bash
# Trains the default model, models/hone-austen-3m, as examples/training/hone-austen-3m.yaml says.
#
#   tools/train_default_model.sh OUT [--resume]
#
# The texts are those of tools/extract_texts.sh; each chapter becomes a document of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: train_default_model.sh OUT [--resume]}
shift
tools/extract_texts.sh build/text
sed -E 's/^((CHAPTER|Chapter) [0-9IVXL]+|Epilogue$)/<|endoftext|>\n&/' build/text/train.txt \
  >build/text/chapters.txt
exec build/hone train examples/training/hone-austen-3m.yaml --out "$out" --seed 1 \
  --report "$out.html" "$@"
