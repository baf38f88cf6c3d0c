"""How a family's golden is made and checked: the writer behind make_families.py.

A model of random parameters, what transformers computes with it, and the checks that the docstring there
names: token by token as at once, reloaded as saved, and that what it should show matters.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "families"
PROMPT, STEPS, VOCAB = 40, 8, 128
SIZE_LIMIT = 200_000
TOLERANCE = 2e-5  # of transformers against itself, relative to the largest logit
MARGIN = 5e-3  # between the two best logits of each greedy step, likewise
MATTERS = 1e-2  # the least change that taking a feature away must make


def attention_of(config):
    """Eager; but Falcon's adds ALiBi twice there, in the mask and again to the scores."""
    return "sdpa" if config.model_type == "falcon" else "eager"


def build(config, seed):
    """A model whose every parameter is random, and whose logits vary."""
    torch.manual_seed(seed)
    kind = attention_of(config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kind).float().eval()
    # Their norms multiply by 1 + weight.
    zero_centred = config.model_type in ("gemma2", "gemma3_text", "qwen3_5_text")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if parameter.dim() == 2 and ("embed" in name or ".wte" in name or ".wpe" in name):
                parameter.copy_(0.5 * noise)
            elif parameter.dim() >= 2:  # experts are matrices one behind the other
                fan_in = parameter.shape[0 if config.model_type == "gpt2" else -1]
                parameter.copy_(1.2 * noise / fan_in**0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_((0.0 if zero_centred else 1.0) + 0.3 * noise)
    return model


@torch.no_grad()
def run(model, ids):
    return model(input_ids=ids[None], use_cache=False).logits[0].contiguous()


@torch.no_grad()
def run_with_cache(model, ids):
    """The logits of every token, fed one at a time."""
    key = "cache_params" if model.config.model_type == "mamba2" else "past_key_values"
    cache, rows = None, []
    for token in ids:
        out = model(input_ids=token.view(1, 1), use_cache=True, **{key: cache})
        cache = out[key]
        rows.append(out.logits[0, 0])
    return torch.stack(rows)


def continue_greedily(model, ids):
    """(continuation [STEPS], logits that chose each token [STEPS, VOCAB])"""
    rows = []
    for _ in range(STEPS):
        rows.append(run(model, ids)[-1])
        ids = torch.cat([ids, rows[-1].argmax().view(1)])
    return ids[PROMPT:], torch.stack(rows)


def choose_prompt(model, seed):
    """(ids, continuation, step logits, margin) of the first random prompt without near-ties."""
    generator = torch.Generator().manual_seed(seed + 1000)
    while True:
        ids = torch.randint(3, VOCAB - 1, (PROMPT,), generator=generator)
        continuation, step_logits = continue_greedily(model, ids)
        best, second = step_logits.topk(2).values.unbind(1)
        margin = float((best - second).min() / step_logits.abs().max())
        if margin > MARGIN:
            return ids, continuation, step_logits, margin


def difference(a, b):
    return float((a - b).abs().max() / b.abs().max())


def save_weights(model, directory, shard_bytes):
    model.config.use_cache = True
    model.config.dtype = torch.float32
    model.save_pretrained(directory, max_shard_size=shard_bytes or "1GB")
    (directory / "generation_config.json").unlink(missing_ok=True)


def use_hub_names(directory, config):
    """Renames GPT-2's weights as the files on the hub have them, with their mask buffers."""
    path = directory / "model.safetensors"
    weights = {name.removeprefix("transformer."): w for name, w in load_file(path).items()}
    n = config.n_positions
    for layer in range(config.n_layer):
        mask = torch.ones(n, n).tril().view(1, 1, n, n)
        weights[f"h.{layer}.attn.bias"] = mask
    save_file(weights, path, metadata={"format": "pt"})


def rewrite_config(directory, rewrite):
    path = directory / "config.json"
    config = rewrite(json.loads(path.read_text()))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(
    name,
    config,
    seed,
    matters=(),
    shard_bytes=None,
    hub_names=False,
    old_config=None,
    tolerance=TOLERANCE,
):
    model = build(config, seed)
    ids, continuation, step_logits, margin = choose_prompt(model, seed)
    logits = run(model, ids)

    directory = OUT / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    save_weights(model, directory, shard_bytes)
    if hub_names:
        use_hub_names(directory, config)
    if old_config:
        rewrite_config(directory, old_config)
    golden = {
        "input_ids": ids,
        "logits": logits,
        "continuation": continuation,
        "step_logits": step_logits,
    }
    save_file(golden, directory / "logits.safetensors")
    for path in directory.iterdir():
        path.chmod(0o644)

    whole = torch.cat([ids, continuation[:-1]])
    expected = torch.cat([logits, step_logits[1:]])
    cached = difference(run_with_cache(model, whole), expected)
    assert cached < tolerance, f"{name}: prefill and cache differ by {cached}"
    kind = attention_of(config)
    reloaded = AutoModelForCausalLM.from_pretrained(directory, attn_implementation=kind).eval()
    reload = difference(run(reloaded, ids), logits)
    assert reload < TOLERANCE, f"{name}: the reloaded model differs by {reload}"
    least = float("inf")
    for i, other in enumerate(matters):
        least = min(least, difference(run(build(other, seed), ids), logits))
        assert least > MATTERS, f"{name}: change {i} of `matters` moves the logits by {least} only"
    moved = f"matters {least:.2f}, " if matters else ""
    largest = max(path.stat().st_size for path in directory.iterdir())
    assert largest <= SIZE_LIMIT, f"{name}: a file has {largest} bytes"
    print(
        f"{name:24} logits std {logits.std():.2f}, cache {cached:.1e}, reload {reload:.1e}, "
        f"margin {margin:.1e}, {moved}largest file {largest}"
    )
