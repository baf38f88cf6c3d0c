#!/usr/bin/env python3
"""Writes tests/golden/tasks.json: what lm-evaluation-harness makes of made-up records.

For each kind of task: its records with the published fields; the requests that the harness's own definition makes
of them, without examples and with; log-likelihoods that a function of the request gives; and the harness's figures
over them. The records have what the definitions treat specially: brackets, capitals, spaces, characters beyond ASCII.

  pip install lm_eval==0.4.13 transformers torch
  python3 tools/golden/make_tasks.py
"""
import hashlib
import json
import os
import sys
import tempfile

os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DISABLE_MULTIPROC"] = "1"
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "oracle"))

import harness_tasks
from lm_eval.api.model import LM

SHOTS = 3
WORDS = ["stone", "river", "Élan", "the moon", "a  wide gap", "naïve idea", "x", "über alles gut", "日本の川"]


def word(i):
    return WORDS[i % len(WORDS)]


def records(kind, n):
    for i in range(n):
        a, b, c, d = (word(i * k + k) for k in (1, 2, 3, 5))
        if kind == "lambada":
            yield {"text": f"He saw {a} and  {b}.\nThen {c}, “{d}” said " + ("it" if i % 2 else "stone's")}
        elif kind in ("arc_easy", "arc_challenge"):
            labels = ["1", "2", "3"] if i % 3 == 0 else ["A", "B", "C", "D"]
            yield {"question": f"Which of {a} is {b}? {c} ", "choices": {
                "text": [a, b + " " + c, d, c + c][:len(labels)], "label": labels}, "answerKey": labels[i % len(labels)]}
        elif kind == "openbookqa":
            yield {"question_stem": f"{a} is made by{' ' if i % 2 else ''}", "choices": {
                "text": [d, a + b, c, "nothing"], "label": ["A", "B", "C", "D"]}, "answerKey": " ABCD"[i % 4 + 1]}
        elif kind == "piqa":
            yield {"goal": f"Make {a} of {b}\n" if i % 4 == 0 else f"how to {c}?", "sol1": f"Use {d}, then {a}.",
                   "sol2": f"Use {b}.", "label": i % 2}
        elif kind == "winogrande":
            behind = "'s gone." if i % 3 == 0 else " was lost .  "
            yield {"sentence": f"{a} met {b} because _{behind}", "option1": c, "option2": d, "answer": str(i % 2 + 1)}
        elif kind == "copa":
            yield {"premise": f" The {a} fell on {b}." if i % 2 else f"{c} rose。", "question": ["cause", "effect"][i % 2],
                   "choice1": f"It was {d}.", "choice2": f"Éric saw {b}.", "label": (i + 1) % 2}
        elif kind == "hellaswag":
            yield {"activity_label": f"Removing {a}", "ctx_a": f"[header] How to [title] see {b} [step] Now.",
                   "ctx_b": ["the Man ÉTAIT", "Then Bob", "", "ßa [x\ny] IL"][i % 4],
                   "endings": [f" {c} [substeps] goes   away. ", f"[title] {d}.", "ends [title] here", f"is [un closed {b}"],
                   "label": str(i % 4)}
        elif kind == "boolq":
            yield {"passage": f"{a} is {b}.\n{c}", "question": f"is {a} {d}", "label": i % 2}


def likelihood(context, continuation):
    """Of any request: made of its bytes, so that longer continuations are less likely."""
    h = hashlib.sha256((context + "\0" + continuation).encode()).digest()
    return -round((1 + len(continuation)) * (0.5 + h[0] / 256), 6), h[1] < 100


class Hashed(LM):
    def loglikelihood(self, requests, **kwargs):
        return [likelihood(*r.args) for r in requests]

    def loglikelihood_rolling(self, requests, **kwargs):
        raise NotImplementedError

    def generate_until(self, requests, **kwargs):
        raise NotImplementedError


def arguments_of(sample):
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        arguments = [tuple(a[key] for key in sorted(a)) for a in arguments.values()]
    return [list(a[:2]) for a in arguments]


def main():
    golden = {"shots": SHOTS, "kinds": {}}
    for kind in harness_tasks.DEFINITIONS:
        # COPA's pool is large, so that the sampler takes its other way.
        all_records = list(records(kind, 40 if kind == "copa" else 12))
        with tempfile.TemporaryDirectory() as directory:
            data = os.path.join(directory, kind + ".jsonl")
            with open(data, "w", encoding="utf-8") as f:
                f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in all_records)
            name = harness_tasks.write_definition(kind, data, directory)
            entry = {"records": all_records}
            for shots in (0, SHOTS):
                results = harness_tasks.evaluate(Hashed(), [name], directory, shots=shots)
                samples = sorted(results["samples"][name], key=lambda s: s["doc_id"])
                if shots:
                    # The first context of each is enough: the others differ as without examples.
                    entry["with_shots"] = [arguments_of(s)[0][0] for s in samples]
                    continue
                entry["requests"] = [arguments_of(s) for s in samples]
                entry["responses"] = [[likelihood(*a) for a in arguments_of(s)] for s in samples]
                entry["figures"] = {k.split(",")[0]: v for k, v in results["results"][name].items()
                                    if isinstance(v, float)}
                assert 0 < entry["figures"]["acc"] < 1, kind
        golden["kinds"][kind] = entry
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    assert len(text.encode()) < 200_000, len(text)
    with open(os.path.join(HERE, "..", "..", "tests", "golden", "tasks.json"), "w", encoding="utf-8") as f:
        f.write(text + "\n")


if __name__ == "__main__":
    main()
