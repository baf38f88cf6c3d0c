#!/usr/bin/env python3
r"""Trains the default model, models/hone-austen-3m: a Llama of 2.9 million parameters.

The recipe, in full (the numbers are the defaults below; an idle core takes about 50 minutes):
  data       tools/extract_texts.sh: Austen's novels and Moby Dick. Each chapter follows the
             separator <|endoftext|>; calibration.txt and heldout.txt are other chapters.
  tokenizer  byte-level BPE of 2048 tokens on train.txt, words split by Llama 3's expression.
  model      Llama: hidden 256, 4 layers, 8 heads over 4 KV heads (dim 32), SwiGLU 512, tied
             embeddings, context 512. Every K is a multiple of 256, so that every block format fits.
  training   AdamW (0.9, 0.95), weight decay 0.1 on matrices, clip 1.0, fp32, batches of 8 x 512
             tokens; the rate warms up over 100 steps, stays, and falls linearly to 0 over the last
             40 % of the run.
  batches    epoch e cuts the token stream at an offset drawn from (seed, e) and visits the windows
             in an order drawn from the same: a run that is stopped and resumed sees the same ones.

Made with torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, safetensors 0.8.0:
  tools/extract_texts.sh build/text
  python tools/train_default_model.py --text build/text --state build/train \
      --out models/hone-austen-3m
"""

import argparse
import json
import math
import re
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

SEPARATOR = "<|endoftext|>"
HEADING = re.compile(r"^(?=(?:CHAPTER|Chapter) [0-9IVXL]+|Epilogue$)", re.MULTILINE)
# Llama 3's words: contractions, letters, up to three digits, punctuation, line ends, blanks.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--text", type=Path, required=True, help="directory that tools/extract_texts.sh wrote")
    add("--out", type=Path, required=True, help="model directory to write")
    add("--state", type=Path, required=True, help="checkpoint directory; a run resumes from it")
    add("--steps", type=int, default=1400)
    add("--batch", type=int, default=8)
    add("--context", type=int, default=512)
    add("--rate", type=float, default=2e-3)
    add("--warmup", type=int, default=100)
    add("--decay", type=float, default=0.4, help="last part of the run over which the rate falls")
    add("--weight-decay", type=float, default=0.1)
    add("--vocab", type=int, default=2048)
    add("--seed", type=int, default=1)
    add("--threads", type=int, default=1)
    add("--every", type=int, default=100, help="steps between checkpoints")
    return parser.parse_args()


def train_tokenizer(text, vocab_size):
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def read_tokens(path, tokenizer, separate):
    """The ids of a text; with `separate`, each chapter is preceded by the separator."""
    text = path.read_text(encoding="utf-8")
    if separate:
        text = "".join(SEPARATOR + part for part in HEADING.split(text) if part)
    return torch.tensor(tokenizer.encode(text).ids)


def make_model(args):
    config = LlamaConfig(
        vocab_size=args.vocab,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=args.context,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        initializer_range=0.03,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def learning_rate(step, args):
    fall = (args.steps - step) / max(1.0, args.decay * args.steps)
    return args.rate * min((step + 1) / args.warmup, fall, 1.0)


def batch_at(step, tokens, args):
    """The batch of a step, [batch, context]: a function of (seed, step) only."""
    per_epoch = (len(tokens) // args.context - 1) // args.batch
    epoch, index = divmod(step, per_epoch)
    random = torch.Generator().manual_seed(args.seed * 1000 + epoch)
    offset = int(torch.randint(args.context, (1,), generator=random))
    order = torch.randperm(per_epoch * args.batch, generator=random)
    starts = offset + args.context * order[index * args.batch : (index + 1) * args.batch]
    return tokens[starts[:, None] + torch.arange(args.context)]


@torch.no_grad()
def score(model, path, tokenizer, context):
    """(perplexity per token, bits per byte) over non-overlapping windows of a text."""
    tokens = read_tokens(path, tokenizer, separate=False)
    total, count = 0.0, 0
    for window in tokens.split(context):
        if len(window) > 1:
            ids = window[None]
            total += float(model(input_ids=ids, labels=ids).loss) * (len(window) - 1)
            count += len(window) - 1
    # Each window's first token goes unscored; scale to the whole text for the figure per byte.
    bits = total / count * len(tokens) / math.log(2)
    return math.exp(total / count), bits / path.stat().st_size


def export(model, tokenizer, args, out):
    """Writes a Hugging Face directory: configuration, weights, tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True
    model.config.dtype = torch.float32
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    model.config.use_cache = False
    GenerationConfig(
        bos_token_id=0, eos_token_id=0, do_sample=True, temperature=0.8, top_p=0.95
    ).save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SEPARATOR,
        "eos_token": SEPARATOR,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": args.context,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def make_optimizer(model, args):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.95), fused=True)


def train(model, tokenizer, args):
    tokens = read_tokens(args.text / "train.txt", tokenizer, separate=True)
    print(f"{model.num_parameters()} parameters, {len(tokens)} tokens to train on", flush=True)
    optimizer = make_optimizer(model, args)
    saved = args.state / "state.pt"
    first = 0
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    begin, running = time.time(), 0.0
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        ids = batch_at(step, tokens, args)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running += loss.item()
        done = step + 1
        if done % args.every == 0 or done == args.steps:
            perplexity, bits = score(model, args.text / "calibration.txt", tokenizer, args.context)
            speed = (done - first) * ids.numel() / (time.time() - begin)
            mean = running / ((done - first - 1) % args.every + 1)
            print(
                f"step {done} train loss {mean:.4f} validation perplexity {perplexity:.3f} "
                f"bits/byte {bits:.4f} {speed:.0f} tokens/s",
                flush=True,
            )
            running = 0.0
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            torch.save(state, args.state / "state.tmp")
            (args.state / "state.tmp").replace(saved)


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.state.mkdir(parents=True, exist_ok=True)
    text = (args.text / "train.txt").read_text(encoding="utf-8")
    tokenizer = train_tokenizer(text, args.vocab)
    model = make_model(args)
    train(model, tokenizer, args)
    export(model, tokenizer, args, args.out)
    for name in ("calibration", "heldout"):
        perplexity, bits = score(model, args.text / f"{name}.txt", tokenizer, args.context)
        print(f"{name}: perplexity {perplexity:.3f} per token, {bits:.4f} bits per byte")


if __name__ == "__main__":
    main()
