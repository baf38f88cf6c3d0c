#!/usr/bin/env python3
"""Fails where a kernel compiled for an instruction set exports a weak symbol.

A weak symbol is an inline function or template that the linker may take from any object file: one
compiled for AVX-512 would then run on a CPU that lacks it. Kernel sources therefore hold only static
functions and functions of their instruction set's own namespace.
"""
import pathlib
import subprocess
import sys

build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build")
objects = sorted(build.glob("CMakeFiles/hone_kernels_*.dir/**/*.o"))
if not objects:
    sys.exit(f"{build}: no kernel objects found")
bad = 0
for path in objects:
    isa = path.relative_to(build / "CMakeFiles").parts[0].removeprefix("hone_kernels_").removesuffix(".dir")
    for line in subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout.splitlines():
        fields = line.split(maxsplit=2) if not line.startswith(" ") else ["", *line.split(maxsplit=1)]
        if len(fields) == 3 and fields[1] in "WwVvu" and f"hone::kernels::{isa}::" not in fields[2]:
            print(f"{path}: weak symbol {fields[2]}", file=sys.stderr)
            bad = 1
sys.exit(bad)
