#!/usr/bin/env bash
# Installs a build into a directory of its own and uses what is there: the command, its man page and
# completions, and the library, from a project that knows nothing of the source tree.
#   tests/package.sh SOURCE BUILD
set -euo pipefail
source=$1 build=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/prefix

cmake --install "$build" --prefix "$prefix" >"$scratch/log"
"$prefix/bin/hone" --version
"$prefix/bin/hone" info "$source/models/hone-austen-3m" >/dev/null
for file in share/man/man1/hone.1.gz share/bash-completion/completions/hone \
  share/zsh/vendor-completions/_hone share/fish/vendor_completions.d/hone.fish; do
  [[ -s $prefix/$file ]] || { echo "package: $file is missing or empty" >&2; exit 1; }
done
count=$(find "$prefix/include" -type f | wc -l)
((count >= 1 && count <= 10)) || { echo "package: $count public headers" >&2; exit 1; }
# What is installed names no place where it was built.
config=$(find "$prefix" -name hone-config.cmake -printf '%h\n')
found=0
grep -rl "$source\|$build" "$prefix/include" "$config" "$prefix/share" || found=$?
if ((found != 1)); then  # 1: nothing found; 2: could not look
  echo "package: the files above name the source or build directory, or could not be read" >&2
  exit 1
fi

cp -r "$source/examples/package" "$scratch/user"
cmake -S "$scratch/user" -B "$scratch/user/build" -DCMAKE_PREFIX_PATH="$prefix" >>"$scratch/log"
cmake --build "$scratch/user/build" >>"$scratch/log" || { tail -n 20 "$scratch/log" >&2; exit 1; }
"$scratch/user/build/continue_text" "$source/models/hone-austen-3m" \
  "$source/examples/text/heldout.txt" "$scratch/out"
