#!/usr/bin/env python3
"""Goldens of the Jinja interpreter and of chat templates: what Hugging Face transformers renders.

Writes tests/golden/jinja.json (small templates) and tests/golden/chat_templates.json and
chat_template_families.json (prompts).
Made with Python 3.11, transformers 5.23.0, jinja2 3.1.6, markupsafe 3.0.
"""
import datetime
import json
import pathlib

import transformers.utils.chat_template_utils as hf

from chat_template_families import TEMPLATES as FAMILY_TEMPLATES
from chat_template_sources import CHATS, TEMPLATES as CHAT_TEMPLATES, VARIANTS
from jinja_expressions import EXPRESSIONS
from jinja_templates import TEMPLATES, VARIABLES

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
NOW = datetime.datetime(2024, 7, 26, 13, 5, 9)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# Deliberately not supported; the interpreter must refuse them.
UNSUPPORTED = ["{% for x in xs recursive %}{{ x }}{% endfor %}!"]


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


hf.datetime = FixedClock


def rendered(template, variables):
    """The output, or None where rendering raises."""
    try:
        return hf._compile_jinja_template(template).render(**variables)
    except Exception:
        return None


def snippets():
    templates = ["{{ " + line + " }}" for line in EXPRESSIONS] + TEMPLATES
    cases = [[t, None if t in UNSUPPORTED else rendered(t, VARIABLES)] for t in templates]
    for t, out in cases:
        assert not out or " at 0x" not in out, t
    return {"variables": VARIABLES, "cases": cases}


def prompt(template, chat, options):
    """What apply_chat_template does after it has found the template."""
    messages = [{k: v for k, v in m.items() if v is not None} for m in chat]
    try:
        texts, spans = hf.render_jinja_template(
            conversations=[messages], chat_template=template,
            return_assistant_tokens_mask="{% generation %}" in template, **TOKENS, **options)
    except Exception:
        return None, []
    # Spans in characters become spans in bytes.
    spans = spans[0] if spans else []
    size = lambda end: len(texts[0][:end].encode())
    return texts[0], [[size(a), size(b)] for a, b in spans]


def prompts(templates):
    cases = []
    for name, template in templates.items():
        for chat_name, chat in CHATS.items():
            for i, options in enumerate(VARIANTS):
                text, spans = prompt(template, chat, options)
                if text is None and i > 0:
                    continue
                cases.append({"template": name, "chat": chat_name, "variant": i, "prompt": text})
                if spans:
                    cases[-1]["generated"] = spans
    # Equal prompts of other variants say nothing more.
    seen, kept = set(), []
    for case in cases:
        key = (case["template"], case["chat"], case["prompt"])
        if key not in seen:
            seen.add(key)
            kept.append(case)
    return {"templates": templates, "chats": CHATS, "variants": VARIANTS, "tokens": TOKENS,
            "cases": kept}


def main():
    for name, data in [("jinja", snippets()), ("chat_templates", prompts(CHAT_TEMPLATES)),
                       ("chat_template_families", prompts(FAMILY_TEMPLATES))]:
        path = GOLDEN / f"{name}.json"
        path.write_text(json.dumps(data, ensure_ascii=False, indent=0) + "\n")
        print(path, path.stat().st_size, "bytes,", len(data["cases"]), "cases,",
              sum((c[1] if name == "jinja" else c["prompt"]) is None for c in data["cases"]),
              "of them errors")


if __name__ == "__main__":
    main()
