#!/usr/bin/env python3
"""Compares `hone eval` with llama.cpp and with transformers on the same text.

  check_perplexity.py --hone build/hone --gguf MODEL.gguf --text FILE [--context 512] [--tokens N]
  check_perplexity.py --hone build/hone --hf DIRECTORY --text FILE ...

llama.cpp's convention: chunks of the context, the second half scored, through llama-cpp-python with
f32 caches. Hugging Face's: a sliding window with a stride of half the context, through transformers
in fp32. Prints both figures and their relative difference. Needs llama-cpp-python, or transformers
and torch.
"""
import argparse
import json
import subprocess

import numpy as np


def hone_eval(args, model, convention):
    out = subprocess.run(
        [args.hone, "eval", model, "--text", args.text, "--context", str(args.context), "--convention",
         convention, "--max-tokens", str(args.tokens), "--activations", "f32", "--json", "--quiet"],
        check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def log_softmax(x):
    x = x.astype(np.float64)
    top = x.max(-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))


def llama_cpp(args):
    import llama_cpp
    model = llama_cpp.Llama(args.gguf, n_ctx=args.context, n_batch=args.context, logits_all=True,
                            verbose=False, type_k=0, type_v=0)
    text = open(args.text, "rb").read()
    ids = model.tokenize(text, add_bos=True, special=False)[: args.tokens]
    starts_with_bos = model.tokenize(b"", add_bos=True)[:1]
    nll, count = 0.0, 0
    for begin in range(0, len(ids) - args.context + 1, args.context):
        chunk = ids[begin:begin + args.context]
        chunk[:1] = starts_with_bos or chunk[:1]
        model.reset()
        model.eval(chunk)
        first = args.context // 2
        logp = log_softmax(np.asarray(model.scores[first:args.context - 1]))
        nll -= logp[np.arange(len(logp)), chunk[first + 1:]].sum()
        count += len(logp)
    return float(np.exp(nll / count)), count


def transformers_hf(args):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(args.hf)
    model = AutoModelForCausalLM.from_pretrained(args.hf, dtype=torch.float32).eval()
    ids = tokenizer(open(args.text, encoding="utf-8").read(), return_tensors="pt").input_ids[:, : args.tokens]
    stride, scored, nll, count = args.context // 2, 0, 0.0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + args.context, ids.shape[1])
        with torch.no_grad():
            logits = model(ids[:, begin:end]).logits[0].double()
        first = max(1, scored - begin)
        logp = torch.log_softmax(logits[first - 1:end - begin - 1], -1)
        nll -= logp.gather(1, ids[0, begin + first:end, None]).sum().item()
        count += end - begin - first
        scored = end
        if end == ids.shape[1]:
            break
    return float(np.exp(nll / count)), count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone", required=True)
    parser.add_argument("--gguf")
    parser.add_argument("--hf")
    parser.add_argument("--text", required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=8192)
    args = parser.parse_args()
    for model, convention, peer in ((args.gguf, "llama.cpp", llama_cpp), (args.hf, "hf", transformers_hf)):
        if not model:
            continue
        ours = hone_eval(args, model, convention)
        theirs, count = peer(args)
        difference = ours["perplexity"] / theirs - 1
        print(f"{convention:10} hone {ours['perplexity']:.6f} ({ours['tokens']} tokens)  "
              f"peer {theirs:.6f} ({count} tokens)  difference {difference:+.2e}")


if __name__ == "__main__":
    main()
