#!/usr/bin/env python3
"""Multiple-choice and cloze tasks: hone and lm-evaluation-harness (transformers, f32, CPU) in turn.

  tasks.py --hone build/hone --hf DIRECTORY [--quantised MODEL] FILE.jsonl... [--limit N] [--rounds N]
           [--threads N] [--batch-sizes 8,32]

Round by round each engine answers the same items once, in a process of its own and with the same number of threads.
Timed is what each does behind loading: tokenizing and the model; of the harness loglikelihood() alone. hone runs
DIRECTORY with f32 activations, and --quantised (its quantised file, say) with int8 ones. Prints medians, least and
most, and the ratio of the harness's time with its best batch size to hone's; and the processor time of all threads,
which other work on the machine disturbs less: hone's with loading. Needs lm_eval, transformers, torch.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tools", "oracle"))


def harness(args):
    """The child process: prints seconds and accuracy."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", DISABLE_MULTIPROC="1")
    import harness_tasks
    path, limit, batch_size = args.files[0], args.limit, int(args.batch_sizes)
    lm = harness_tasks.load(args.hf, args.threads, batch_size)
    inner, spent, processor = lm.loglikelihood, [], []

    def timed(requests, **kwargs):
        start, start_processor = time.perf_counter(), time.process_time()
        answers = inner(requests, **kwargs)
        spent.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
        return answers

    lm.loglikelihood = timed
    kind = harness_tasks.kind_of(path)
    with tempfile.TemporaryDirectory() as directory:
        data = os.path.join(directory, kind + ".jsonl")
        harness_tasks.write_published(path, kind, data, limit)
        name = harness_tasks.write_definition(kind, data, directory)
        results = harness_tasks.evaluate(lm, [name], directory)
    print(json.dumps({"seconds": sum(spent), "processor_seconds": sum(processor),
                      "accuracy": results["results"][name]["acc,none"]}))


def run(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        sys.exit(f"tasks.py: {' '.join(command)}: {process.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processor_seconds": spent, **json.loads(process.stdout.splitlines()[-1])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone")
    parser.add_argument("--hf", required=True)
    parser.add_argument("--quantised")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch-sizes", default="8,32")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--harness", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.harness:
        return harness(args)
    if not args.hone:
        parser.error("--hone is required")
    threads, limit = str(args.threads), str(args.limit)
    everything = {}
    for path in args.files:
        def hone(model, activations):
            return [args.hone, "eval", model, "--task", path, "--limit", limit, "--activations", activations,
                    "--threads", threads, "--json", "--quiet"]
        commands = {"hone f32": hone(args.hf, "f32")}
        if args.quantised:
            commands["hone int8"] = hone(args.quantised, "int8")
        for size in args.batch_sizes.split(","):
            commands[f"harness, batches of {size}"] = [
                sys.executable, os.path.abspath(__file__), "--harness", "--hf", args.hf, "--limit", limit, "--threads",
                threads, "--batch-sizes", size, path]
        runs = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                runs[name].append(run(command))
        medians = {name: statistics.median(r["seconds"] for r in all_of) for name, all_of in runs.items()}
        best = min((m, name) for name, m in medians.items() if name.startswith("harness"))[0]
        items = limit if args.limit else "all"
        print(f"{os.path.basename(path)}, {items} items, {threads} threads, {args.rounds} rounds")
        print(f"  {'':<24} {'median':>9} {'least':>9} {'most':>9} {'faster':>7} {'processor':>10} {'accuracy':>9}")
        for name, all_of in runs.items():
            seconds = [r["seconds"] for r in all_of]
            print(f"  {name:<24} {medians[name]:>7.2f} s {min(seconds):>7.2f} s {max(seconds):>7.2f} s "
                  f"{best / medians[name]:>6.2f}x {statistics.median(r['processor_seconds'] for r in all_of):>8.2f} s "
                  f"{all_of[0]['accuracy']:>9.4f}", flush=True)
        everything[os.path.basename(path)] = runs
    if args.json:
        print(json.dumps(everything))


if __name__ == "__main__":
    main()
