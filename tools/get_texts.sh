#!/usr/bin/env bash
# Puts held-out and calibration chapters of Austen and Melville into a directory, from the Debian
# packages that carry them, without installing anything that is not there: exit status 3 if they
# cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: get_texts.sh DIRECTORY}
if [[ -s "$out/heldout.txt" && -s "$out/calibration.txt" ]]; then exit 0; fi
if ! command -v Rscript >/dev/null ||
   ! dpkg-query -W r-cran-janeaustenr r-cran-tokenizers >/dev/null 2>&1; then
  echo "installing r-cran-janeaustenr r-cran-tokenizers" >&2
  as_root=()
  if ((EUID != 0)); then as_root=(sudo); fi
  DEBIAN_FRONTEND=noninteractive timeout 240 "${as_root[@]}" apt-get install -y -q \
    --no-install-recommends r-cran-janeaustenr r-cran-tokenizers >/dev/null 2>&1 || exit 3
fi
tools/extract_texts.sh "$out" >&2 || exit 3
