#!/usr/bin/env python3
"""Golden of the masks of training data: which tokens of a chat transformers takes for answers.

Writes tests/golden/chat_masks.json: {"templates": {name: text}, "chats": [...], "cases": [{tokenizer,
template, chat, ids, mask}]}, from the tokenizers of tests/golden/tokenizers. Contents spell no
special tokens: there hone differs on purpose. Answers neither begin nor end with white space: where
a tokenizer trims the offsets of its tokens, transformers then masks nothing, or all that follows.
Made with Python 3.11, transformers 5.23.0, tokenizers 0.23.3.
"""
import json
import pathlib

from transformers import PreTrainedTokenizerFast

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
TOKENIZERS = ["smollm", "qwen2", "llama3", "gpt4o", "falcon", "roberta", "llama2",
              "llama2_metaspace", "metaspace_split", "gemma", "mixed"]
TEMPLATES = {
    # Special tokens around each message, where the vocabulary has them.
    "turns": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
             "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}"
             "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
             "{% endfor %}",
    # Nothing but text: tokens may lie across the borders.
    "words": "{% for m in messages %}{{ m.role + ':' }}"
             "{% if m.role == 'assistant' %} {% generation %}{{ m.content }}{% endgeneration %}"
             "{% else %}{{ ' ' + m.content }}{% endif %}{{ '\n\n' }}{% endfor %}",
    "tight": "{% for m in messages %}{% if m.role == 'assistant' %}"
             "{% generation %}{{ m.content }}{% endgeneration %}"
             "{% else %}{{ m.content }}{% endif %}{% endfor %}",
}


def chat(*contents):
    return [{"role": "assistant" if i % 2 else "user", "content": c}
            for i, c in enumerate(contents)]


CHATS = [
    chat("What is 2 + 3?", "5"),
    chat("Say it twice, please.", "It. It.", "And in French?", "Ça. Ça."),
    chat("caf\u00e9 or cafe\u0301", "e\u0301tude, \u00e9tude", "  spaces  ", "a  round"),
    chat("\u6771\u4eac\u306f?", "\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002",
         "\U0001F600", "\U0001F680 off"),
    chat("def f(x):\n    return x", "```\nf(1)\n```", "\n", "new\n\n\nline"),
    chat("one", "1", "two", "three"),
]


def main():
    cases = []
    for name in TOKENIZERS:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(GOLDEN / "tokenizers" / f"{name}.tokenizer.json"))
        for template, source in TEMPLATES.items():
            for index, messages in enumerate(CHATS):
                out = tokenizer.apply_chat_template(
                    messages, chat_template=source, tokenize=True, return_dict=True,
                    return_assistant_tokens_mask=True)
                mask = out["assistant_masks"]
                assert 0 < sum(mask) < len(mask), (name, template, index)
                cases.append({"tokenizer": name, "template": template, "chat": index,
                              "ids": list(out["input_ids"]), "mask": list(mask)})
    text = json.dumps({"templates": TEMPLATES, "chats": CHATS, "cases": cases},
                      ensure_ascii=True, separators=(",", ":"))
    (GOLDEN / "chat_masks.json").write_text(text + "\n")
    print(len(cases), "cases,", len(text), "bytes")


main()
