#!/usr/bin/env python3
"""Fails where a source file is longer than 600 lines."""
import subprocess
import sys

LIMIT = 600

files = subprocess.run(["git", "ls-files", "src", "apps", "include", "tests", "bench", "python",
                        "examples", "tools"],
                       capture_output=True, text=True, check=True).stdout.split()
bad = 0
for name in files:
    if not name.endswith((".h", ".cpp", ".cu", ".cuh", ".py", ".js", ".css", ".sh")):
        continue
    with open(name, encoding="utf-8") as file:
        lines = sum(1 for _ in file)
    if lines > LIMIT:
        print(f"{name}: {lines} lines, more than {LIMIT}", file=sys.stderr)
        bad = 1
sys.exit(bad)
