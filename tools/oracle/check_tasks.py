#!/usr/bin/env python3
"""Compares `hone eval --task` with lm-evaluation-harness, item by item.

  check_tasks.py --hone build/hone --hf DIRECTORY FILE.jsonl... [--limit N] [--shots N] [--batch-size N]

DIRECTORY is a Hugging Face model, which both run in f32; FILEs are tasks whose kind is in their name. The harness
runs its own definitions over the records. Compared are the prompts, the tokens and where they are cut into context
and continuation, log-likelihoods, is_greedy, and the figures. hone reads each file twice: as it is, and with the
fields that the data set was published with. Exit status 1 where anything differs by more than rounding.

Needs lm_eval 0.4, transformers, torch. No data is fetched.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("DISABLE_MULTIPROC", "1")

import harness_tasks

TOLERANCE = 2e-3  # nats of a whole continuation: sums of f32 log-probabilities in another order


def hone(args, model, data, kind, directory):
    samples = os.path.join(directory, "samples.jsonl")
    if os.path.exists(samples):
        os.remove(samples)
    out = subprocess.run(
        [args.hone, "eval", model, "--task", data, "--task-kind", kind, "--limit", str(args.limit), "--shots",
         str(args.shots), "--activations", "f32", "--samples", samples, "--json", "--quiet"],
        check=True, capture_output=True, text=True).stdout
    with open(samples, encoding="utf-8") as f:
        return json.loads(out.splitlines()[-1]), [json.loads(line) for line in f]


def arguments_of(sample):
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        arguments = [tuple(a[key] for key in sorted(a)) for a in arguments.values()]
    return [tuple(a[:2]) for a in arguments]


def compare(lm, samples, ours):
    worst, count, bad = 0.0, 0, []
    differing = {"prompts": 0, "tokens": 0, "is_greedy": 0, "log-likelihoods": 0}
    for theirs, mine in zip(samples, ours, strict=True):
        arguments = arguments_of(theirs)
        responses = [r[0] if isinstance(r[0], (list, tuple)) else r for r in theirs["resps"]]
        for a, response, request, ll, greedy in zip(arguments, responses, mine["requests"], mine["log_likelihoods"],
                                                    mine["greedy"], strict=True):
            count += 1
            found = []
            if (request["context"], request["continuation"]) != a:
                found.append("prompts")
            context, continuation = lm._encode_pair(*a)
            if request["tokens"] != context + continuation or request["context_tokens"] != len(context):
                found.append("tokens")
            if bool(response[1]) != greedy:
                found.append("is_greedy")
            difference = abs(float(response[0]) - ll)
            worst = max(worst, difference)
            if difference > TOLERANCE:
                found.append("log-likelihoods")
            for what in found:
                differing[what] += 1
            if found and len(bad) < 3:
                bad.append((found, a, response, request, ll, greedy))
    return worst, count, differing, bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone", required=True)
    parser.add_argument("--hf", required=True)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    lm = harness_tasks.load(args.hf, args.threads, args.batch_size)
    failed = False
    for path in args.files:
        kind = harness_tasks.kind_of(path)
        with tempfile.TemporaryDirectory() as directory:
            data = os.path.join(directory, kind + ".jsonl")
            harness_tasks.write_published(path, kind, data)
            name = harness_tasks.write_definition(kind, data, directory)
            results = harness_tasks.evaluate(lm, [name], directory, args.limit, args.shots)
            samples = sorted(results["samples"][name], key=lambda s: s["doc_id"])
            figures = results["results"][name]
            for form, file in (("as it is", path), ("published fields", data)):
                mine, ours = hone(args, args.hf, file, kind, directory)
                worst, count, differing, bad = compare(lm, samples, ours)
                print(f"{kind}, {form}: {len(ours)} items, {count} requests; differing: "
                      f"{', '.join(f'{k} {v}' for k, v in differing.items())}; largest difference {worst:.2e} nats")
                for b in bad:
                    print("   ", *b)
                failed |= any(differing.values())
                for key, metric in (("accuracy", "acc"), ("accuracy_norm", "acc_norm"), ("perplexity", "perplexity")):
                    theirs = figures.get(metric + ",none")
                    if theirs is None:
                        continue
                    error = figures.get(metric + "_stderr,none")
                    error = f"{error:.5f}" if isinstance(error, float) else error
                    print(f"    {key}: hone {mine[key]:.5f} ± {mine[key + '_stderr']:.5f}, "
                          f"lm-evaluation-harness {theirs:.5f} ± {error}")
                    failed |= abs(mine[key] / theirs - 1) > 1e-4 if theirs else mine[key] != 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
