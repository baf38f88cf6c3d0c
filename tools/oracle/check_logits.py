#!/usr/bin/env python3
"""Compares hone's token ids, logits and greedy text with llama.cpp's or transformers' on one model.

  check_logits.py --build build --gguf MODEL.gguf --text FILE [--tokens 512] [--greedy 64]
  check_logits.py --build build --hf DIRECTORY --text FILE ...

Everything in f32: llama.cpp through llama-cpp-python with f32 caches, no flash attention and one
batch (it quantises activations for quantised weights: give it float weights, or expect their noise);
transformers in fp32. Prints the largest difference relative to the largest logit, the same for root
mean squares, and how often both have the same first choice; then how many greedy tokens after the
first 32 of the text are the same. Exit status 1: token ids differ, or the error is above --tolerance.

Pinned: llama-cpp-python 0.3.36, transformers 5.23.0, torch 2.15.0.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

PROMPT = 32  # tokens before the greedy ones


class LlamaCpp:
    def __init__(self, path, context):
        import llama_cpp
        self.model = llama_cpp.Llama(path, n_ctx=context, n_batch=context, n_ubatch=context, logits_all=True,
                                     n_threads=2, n_threads_batch=2, verbose=False, type_k=0, type_v=0,
                                     flash_attn=False)

    def tokenize(self, text):
        return self.model.tokenize(text.encode(), add_bos=False, special=True)

    def logits(self, ids):
        self.model.reset()
        self.model.eval(ids)
        return self.model.scores[:len(ids)]

    def greedy(self, ids, count):
        self.model.reset()
        self.model.eval(ids)
        out = []
        for _ in range(count):
            out.append(int(self.model.scores[self.model.n_tokens - 1].argmax()))
            self.model.eval(out[-1:])
        return out


class Transformers:
    def __init__(self, path, context):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        torch.set_num_threads(2)
        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def tokenize(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def logits(self, ids):
        with self.torch.no_grad():
            return self.model(self.torch.tensor([ids])).logits[0].numpy()

    def greedy(self, ids, count):
        ids = self.torch.tensor([ids])
        self.model.generation_config.eos_token_id = None
        with self.torch.no_grad():
            out = self.model.generate(ids, attention_mask=self.torch.ones_like(ids), do_sample=False,
                                      max_new_tokens=count, min_new_tokens=count)
        return out[0, ids.shape[1]:].tolist()


class Hone:
    def __init__(self, build, model):
        self.build, self.model = pathlib.Path(build), model
        self.directory = tempfile.TemporaryDirectory()

    def probe(self, what, data, dtype, *more):
        given, made = (pathlib.Path(self.directory.name, name) for name in ("in", "out"))
        given.write_bytes(data)
        subprocess.run([self.build / "hone_probe", what, self.model, given, made, *more], check=True)
        return np.fromfile(made, dtype)

    def tokenize(self, text):
        return self.probe("tokens", text.encode() + b"\xff", np.int32).tolist()[:-1]

    def logits(self, ids):
        return self.probe("logits", np.array(ids, np.int32).tobytes(), np.float32).reshape(len(ids), -1)

    def greedy(self, ids, count):
        return self.probe("greedy", np.array(ids, np.int32).tobytes(), np.int32, str(count)).tolist()


def compare(hone, peer, args, name):
    text = open(args.text, encoding="utf-8").read()[:20 * args.tokens]
    ids, theirs = hone.tokenize(text), peer.tokenize(text)
    same_ids = ids == theirs
    ids = theirs[:args.tokens]
    ours, theirs = hone.logits(ids), peer.logits(ids)
    difference = ours.astype(np.float64) - theirs
    error = np.abs(difference).max() / np.abs(theirs).max()
    rms = np.sqrt((difference ** 2).mean() / (theirs.astype(np.float64) ** 2).mean())
    top = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    print(f"{name}: {len(ids)} tokens, ids {'equal' if same_ids else 'DIFFER'}, largest error {error:.1e}, "
          f"rms {rms:.1e}, same first choice {100 * top:.2f} %", flush=True)
    if args.greedy:
        a, b = hone.greedy(ids[:PROMPT], args.greedy), peer.greedy(ids[:PROMPT], args.greedy)
        print(f"  greedy: {next((i for i in range(len(a)) if a[i] != b[i]), len(a))} of {len(b)} tokens the same")
    return same_ids and error <= args.tolerance


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--gguf")
    parser.add_argument("--hf")
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--greedy", type=int, default=0)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    good = True
    for model, peer, name in ((args.gguf, LlamaCpp, "llama.cpp"), (args.hf, Transformers, "transformers")):
        if model:
            good &= compare(Hone(args.build, model), peer(model, args.tokens + 8), args, name)
    sys.exit(not good)


if __name__ == "__main__":
    main()
