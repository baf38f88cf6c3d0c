#!/usr/bin/env python3
"""Counts the tests behind a run of ctest, whose programs hold many each.

    tools/test_summary.py BUILD

Prints what was skipped, with the reasons, and `N passed, N failed` as the last line; the status
is 1 where one failed or none passed. What has no tests of its own (examples, fuzz corpora, a
folder on another instruction set) counts as one.
"""
import collections
import pathlib
import re
import sys


def results(log):
    """(name, output, passed) of each test in ctest's LastTest.log."""
    for part in re.split(r"^\d+/\d+ Testing: ", log, flags=re.M)[1:]:
        name = part.split("\n", 1)[0].strip()
        status = re.findall(r"^Test (Passed|Failed|Pass Reason|Skipped|Timeout)", part, re.M)
        yield name, part, bool(status) and status[-1] == "Passed", "SKIP_RETURN_CODE" in part


def main(build):
    log = (pathlib.Path(build) / "Testing/Temporary/LastTest.log").read_text(errors="replace")
    passed = failed = 0
    skipped = collections.Counter()
    for name, output, good, left_out in results(log):
        if left_out:
            skipped[f"{name}: the CPU has no such instructions, or takes them unasked"] += 1
            continue
        counts = re.findall(r"^\[  (PASSED|FAILED)  \] (\d+) tests?", output, re.M)
        bad = sum(int(n) for kind, n in counts if kind == "FAILED")
        if name.startswith("isa.") or not counts:
            passed += good
        else:
            skipped.update(re.findall(r": Skipped\n(.*)", output))
            passed += sum(int(n) for kind, n in counts if kind == "PASSED")
        failed += bad or not good  # a program that died failed at least one
    for reason, times in sorted(skipped.items()):
        print(f"skipped {times:>4}  {reason}")
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
