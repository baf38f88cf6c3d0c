"""Local JSONL files as tasks of lm-evaluation-harness: its own definitions, over the records of a file.

The files have MosaicML llm-foundry's fields (query, choices, gold; ...). published() turns a record back into
the fields of the data set as it was published, which the harness's definitions read; the definition itself is
the harness's, with another source of data.
"""
import json
import os

import lm_eval
import yaml

DEFINITIONS = {
    "lambada": "lambada/lambada_openai.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "copa": "super_glue/copa/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "boolq": "super_glue/boolq/default.yaml",
}


def kind_of(path):
    name = os.path.basename(path).lower()
    return next(kind for kind in DEFINITIONS if kind in name)


def published(kind, r):
    """A record with the published fields; one that has them already is returned as it is."""
    if kind == "lambada" and "context" in r:
        return {"text": r["context"] + " " + r["continuation"]}
    if kind in ("arc_easy", "arc_challenge") and "query" in r:
        labels = [chr(ord("A") + i) for i in range(len(r["choices"]))]
        return {"question": r["query"].removeprefix("Question: ").removesuffix("\n"),
                "choices": {"text": r["choices"], "label": labels}, "answerKey": labels[r["gold"]]}
    if kind == "piqa" and "query" in r:
        return {"goal": r["query"].removeprefix("Question: ").removesuffix("\n"), "sol1": r["choices"][0],
                "sol2": r["choices"][1], "label": r["gold"]}
    if kind == "winogrande" and "context_options" in r:
        before = os.path.commonprefix(r["context_options"])
        before = before[:before.rfind(" ") + 1]  # options are whole words
        options = [c[len(before):] for c in r["context_options"]]
        return {"sentence": before + "_ " + r["continuation"], "option1": options[0], "option2": options[1],
                "answer": str(r["gold"] + 1)}
    if kind == "copa" and "query" in r:
        premise, word = r["query"].rsplit(", ", 1)
        return {"premise": premise + ".", "question": {"because": "cause", "therefore": "effect"}[word],
                "choice1": r["choices"][0], "choice2": r["choices"][1], "label": r["gold"]}
    return r


def write_published(path, kind, out, limit=0):
    with open(path, encoding="utf-8") as lines, open(out, "w", encoding="utf-8") as f:
        for i, line in enumerate(lines):
            if limit and i == limit:
                break
            f.write(json.dumps(published(kind, json.loads(line)), ensure_ascii=False) + "\n")


def write_definition(kind, data, directory):
    """Writes a task "local_<kind>" that reads `data`; returns its name."""
    definitions = os.path.join(os.path.dirname(lm_eval.__file__), "tasks")
    task = {"include": os.path.join(definitions, DEFINITIONS[kind]), "task": "local_" + kind, "tag": None,
            "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {"test": data}},
            "training_split": None, "validation_split": None, "test_split": "test", "fewshot_split": "test"}
    with open(os.path.join(directory, f"local_{kind}.yaml"), "w", encoding="utf-8") as f:
        yaml.safe_dump(task, f)
    return task["task"]


def evaluate(lm, names, directory, limit=None, shots=0):
    """What the harness makes of tasks that write_definition() wrote."""
    from lm_eval.tasks import TaskManager
    manager = TaskManager(include_path=directory, include_defaults=False)  # reading all of its own takes a minute
    return lm_eval.simple_evaluate(model=lm, tasks=names, task_manager=manager, limit=limit or None,
                                   num_fewshot=shots, bootstrap_iters=100, log_samples=True, verbosity="ERROR")


def load(directory, threads, batch_size):
    import torch
    from lm_eval.models.huggingface import HFLM
    torch.set_num_threads(threads)
    return HFLM(pretrained=directory, device="cpu", dtype="float32", batch_size=batch_size)
