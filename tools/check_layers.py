#!/usr/bin/env python3
"""Fails when a source file includes a folder that is not below its own.

The order is the one of docs/design.md: each folder may include itself and any folder of a lower
step; folders of one step may not include each other.
"""
import pathlib
import re
import sys

STEPS = [
    ["base"], ["tensor", "hub"], ["kernels", "formats", "text"], ["ops"], ["encodings"], ["attention"],
    ["nn"], ["models", "adapters"], ["eval"], ["train"], ["passes"], ["search", "serve"], ["api"],
]
# formats and text see only base and tensor; the engine's folders do not see formats and text
# before models joins them.
BEFORE_MODELS = {"kernels", "ops", "encodings", "attention", "nn"}

STEP_OF = {folder: i for i, step in enumerate(STEPS) for folder in step}


def allowed(source: str, target: str) -> bool:
    if source == target:
        return True
    if STEP_OF[target] >= STEP_OF[source]:
        return False
    if target == "hub" and source != "api":  # theirs and the command's
        return False
    if source in BEFORE_MODELS and target in ("formats", "text"):
        return False
    return True


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    bad = []
    for path in sorted((root / "src").rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh"):
            continue
        folder = path.relative_to(root / "src").parts[0]
        if folder not in STEP_OF:
            bad.append(f"{path}: folder '{folder}' is not in the list of layers")
            continue
        if len(path.relative_to(root / "src").parts) > 3:
            bad.append(f"{path}: deeper than three levels")
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+"([^"/]+)/', line)
            if match and match.group(1) in STEP_OF and not allowed(folder, match.group(1)):
                bad.append(f"{path}:{number}: {folder} may not include {match.group(1)}")
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
