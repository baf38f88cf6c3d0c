#!/usr/bin/env bash
# Installs what building, testing and the demo need on Debian 12 and is not there yet. Asks for the
# packages once; where everything is present it does nothing and needs no network.
set -euo pipefail

packages=(
  g++ cmake ninja-build pkg-config ccache git python3 python3-pip ca-certificates unzip
  libfmt-dev nlohmann-json3-dev libyaml-cpp-dev libpcre2-dev libutf8proc-dev libcli11-dev
  libcurl4-openssl-dev libssl-dev
)
test_packages=(libgtest-dev clang-format-14 groff-base)

want=("${packages[@]}")
if [[ "${1:-}" == "--tests" ]]; then want+=("${test_packages[@]}"); fi

missing=()
for p in "${want[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
if ((${#missing[@]} == 0)); then exit 0; fi

echo "installing: ${missing[*]}" >&2
as_root=()
if ((EUID != 0)); then as_root=(sudo); fi
log=$(mktemp)
if ! { "${as_root[@]}" apt-get update -q && DEBIAN_FRONTEND=noninteractive \
       "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 5 "$log" >&2
  echo "setup: could not install ${missing[*]}" >&2
  exit 1
fi
rm -f "$log"
