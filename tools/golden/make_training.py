#!/usr/bin/env python3
"""Writes tests/golden/training/<case>/: what PyTorch and peft make of 50 steps of AdamW.

Everything is fp32, one thread, eager attention, no dropout, no clipping. Step i uses batch i mod 5.
A batch is 4 sequences of 24 tokens; `labels` stand at their own token, as transformers has them: the
logits of position t-1 are held against labels[t], -100 means no target, and labels[0] counts only
where something stands before it (prompt tuning). The loss is the mean over all of the batch's
targets, however they are spread over its sequences.

Base models, `llama` (2 layers, GQA, untied) and `gpt2` (2 layers, tied): a Hugging Face directory
without a tokenizer, and beside it
  expected.safetensors        tokens i32 [5, 4, 24], labels i32 [5, 4, 24], losses f32 [50],
                              noise.losses f32 [50], logits f32 [4, 24, 96] of batch 0 at the start
  expected_grads.safetensors  grad.<parameter>: the gradient of step 0
  expected_final.safetensors  final.<parameter> after 50 steps (lr 1e-3, betas .9 .999, eps 1e-8,
                              weight decay .01 on every parameter), noise.<parameter> f32 [1]
`noise` is how far three runs come apart that start from parameters one rounding error away: the
difference that another order of sums may make. It is as large as the value itself where a gradient
is zero but for rounding, which Adam blows up to whole steps (the key part of GPT-2's c_attn.bias).

Adapters over `llama` (over `gpt2` where the name says so) train at lr 1e-2 without weight decay:
  initial/, final/            directories as save_pretrained writes them, before and after
  expected.safetensors        logits of batch 0 at the start, losses, grad.<name>, noise.losses,
                              noise.<name>: as above; names as in adapter_model.safetensors
  merged.safetensors          merge_and_unload of `initial` (lora, lora_embedding, lora_gpt2, dora,
                              ia3)
  initial.gguf                `initial` as a LoRA file of llama.cpp (lora)
`whole` and `whole_gpt2` hold parameters of the model as well (modules_to_save, bias: all) and are not
trained: they have initial/ and logits only.
Batches are those of the base model. `prefix_projection` trains the reparametrisation, which
save_pretrained drops: initial.<name> and final.<name> in expected.safetensors are the encoder's own
parameters (embedding.weight, transform.{0,2}.{weight,bias}, tanh between), and its grads are theirs.

What peft 0.21.2 does about positions, as checked below:
- prefix: prompt_embeddings [n, layers * 2 * kv_width] is, per virtual token, K0 V0 K1 V1 ..., each
  [kv_heads, head_dim]. It is put into the KV cache as it is: no rotation is applied to its keys.
  The real tokens stand at positions n, n+1, ..., since transformers counts from the cache's length.
  Every real token sees every virtual one. The labels are not shifted: labels[0] has no logits.
- prompt: the n embeddings stand before the tokens' own at positions 0 ... n-1, the tokens at n, n+1,
  ...; logits have n rows more; and the last virtual token predicts the first real one, so that
  labels[0] is a target.

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0, gguf 0.19.0:
python tools/golden/make_training.py
"""

import copy
import os
import shutil
import sys
import warnings
from pathlib import Path

if os.environ.get("PYTHONHASHSEED") != "0":  # peft saves sets of names in the order of their hashes
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.argv])

import gguf
import peft
import torch
from make_families import GPT2, LLAMA, build, difference, save_weights
from safetensors.torch import load_file, save_file
from transformers import DynamicCache, GPT2Config, LlamaConfig

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "training"
BATCHES, SEQUENCES, LENGTH, VOCAB, STEPS = 5, 4, 24, 96, 50
VIRTUAL = 5
SIZE_LIMIT = 200_000
MATTERS = 1e-2  # the least change of the logits that an adapter must make
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_config(name):
    if name == "gpt2":
        return GPT2Config(
            **{**GPT2, "vocab_size": VOCAB, "n_positions": 40, "bos_token_id": 1, "eos_token_id": 1},
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    sizes = dict(vocab_size=VOCAB, num_hidden_layers=2, head_dim=8)
    return LlamaConfig(**{**LLAMA, **sizes})


def make_batches(seed):
    """(tokens, labels) [BATCHES, SEQUENCES, LENGTH], with a ragged mask in every batch."""
    generator = torch.Generator().manual_seed(seed)
    shape = (BATCHES, SEQUENCES, LENGTH)
    tokens = torch.randint(3, VOCAB, shape, generator=generator)
    labels = tokens.clone()
    for b in range(BATCHES):
        # A prompt without loss, a tail that is padding, a hole, and one sequence whole.
        labels[b, 0, : 3 + 2 * b] = -100
        labels[b, 1, LENGTH - 4 - 3 * b :] = -100
        labels[b, 2, torch.randperm(LENGTH, generator=generator)[: 5 + b]] = -100
    assert (labels[:, :, 0] != -100).any() and (labels[:, :, 0] == -100).any()
    counts = (labels[:, :, 1:] != -100).sum(-1)
    assert all(len(set(row.tolist())) > 2 for row in counts), "masks should differ in their sizes"
    return tokens, labels


def train(model, parameters, batches, lr, weight_decay):
    """(losses [STEPS], gradients of step 0 by name)"""
    tokens, labels = batches
    optimizer = torch.optim.AdamW(
        parameters.values(),
        lr=lr,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=weight_decay,
        foreach=False,
    )
    losses, grads = [], None
    for step in range(STEPS):
        b = step % BATCHES
        optimizer.zero_grad()
        loss = model(input_ids=tokens[b], labels=labels[b]).loss
        loss.backward()
        if grads is None:
            grads = {name: p.grad.clone() for name, p in parameters.items()}
        losses.append(loss.detach())
        optimizer.step()
    return torch.stack(losses), grads


def train_with_noise(model, select, batches, lr, weight_decay):
    """Trains `model` in place; (losses, gradients, noise by name, "losses" among them).

    select(model) gives its trained parameters by name."""
    start = copy.deepcopy(model)
    losses, grads = train(model, select(model), batches, lr, weight_decay)
    noise = {"losses": torch.zeros(STEPS)}
    noise |= {name: torch.zeros(1) for name in grads}
    for seed in range(3):
        other = copy.deepcopy(start)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in select(other).values():
                p.mul_(1 + 2.0**-23 * (torch.rand(p.shape, generator=generator) - 0.5))
        other_losses, _ = train(other, select(other), batches, lr, weight_decay)
        noise["losses"] = torch.maximum(noise["losses"], (other_losses - losses).abs())
        trained = select(model)
        for name, p in select(other).items():
            gap = (p - trained[name]).detach().abs().max()
            noise[name] = torch.maximum(noise[name], gap.view(1))
    return losses, grads, noise


def prefixed(prefix, tensors):
    return {f"{prefix}.{name}": t.detach().clone().contiguous() for name, t in tensors.items()}


def finish(directory, summary):
    largest = 0
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            largest = max(largest, path.stat().st_size)
    assert largest <= SIZE_LIMIT, f"{directory.name}: a file has {largest} bytes"
    print(f"{directory.name:20} {summary}, largest file {largest}")


def fresh(name):
    directory = OUT / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def course(losses, noise):
    return f"loss {losses[0]:.3f} -> {losses[-5:].mean():.3f}, noise {noise['losses'].max():.1e}"


def make_base(name, seed):
    """Writes the case of a base model; (the untrained model, its batches)."""
    model = build(base_config(name), seed)
    batches = make_batches(seed + 1)
    directory = fresh(name)
    save_weights(model, directory, None)
    untrained = copy.deepcopy(model)
    with torch.no_grad():
        logits = model(input_ids=batches[0][0]).logits
    select = lambda m: dict(m.named_parameters())  # tied weights appear once
    losses, grads, noise = train_with_noise(model, select, batches, 1e-3, 0.01)

    # The loss is the plain mean over the targets of the batch.
    targets = batches[1][0][:, 1:].flatten()
    mean = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets)
    assert abs(mean - losses[0]) < 1e-5

    expected = {
        "tokens": batches[0].int(),
        "labels": batches[1].int(),
        "losses": losses,
        "noise.losses": noise["losses"],
        "logits": logits.contiguous(),
    }
    save_file(expected, directory / "expected.safetensors")
    save_file(prefixed("grad", grads), directory / "expected_grads.safetensors")
    noise_of = {n: noise[n] for n in grads}
    final = prefixed("final", select(model)) | prefixed("noise", noise_of)
    save_file(final, directory / "expected_final.safetensors")
    assert losses[-5:].mean() < losses[:5].mean() - 0.3, f"{name}: it learns nothing"
    large = [n for n in grads if noise[n] > 1e-3]
    finish(directory, f"{course(losses, noise)}, parameters with values of mere noise: {large}")
    return untrained, batches


def perturb(model, seed):
    """Moves what starts as zeros, ones or norms, so that each part of the adapter matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            noise = torch.randn(p.shape, generator=generator)
            if "lora_B" in name:
                p.copy_(0.15 * noise)
            elif "lora_embedding_A" in name:
                p.copy_(0.5 * noise)
            elif "ia3_l" in name or "lora_magnitude_vector" in name:
                p.mul_(1 + 0.3 * noise)


def saved_name(name):
    return name.replace(".default", "")


def select_adapter(model):
    if model.active_peft_config.is_prompt_learning:
        encoder = model.prompt_encoder["default"]
        names = dict(encoder.named_parameters())
        return names if len(names) > 1 else {"prompt_embeddings": names["embedding.weight"]}
    return {saved_name(n): p for n, p in model.named_parameters() if p.requires_grad}


def save_adapter(model, directory):
    model.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink()


@torch.no_grad()
def adapted_logits(model, tokens, **kwargs):
    return model(input_ids=tokens, **kwargs).logits.contiguous()


def check_positions(model, base, tokens, logits):
    """What the head comment says of prefix and prompt tuning."""
    prompt = model.get_prompt_embedding_to_save("default")
    if model.active_peft_config.peft_type == peft.PeftType.PROMPT_TUNING:
        own = base.get_input_embeddings()(tokens)
        embeddings = torch.cat([prompt.expand(len(tokens), -1, -1), own], 1)
        positions = torch.arange(VIRTUAL + LENGTH)[None]
        with torch.no_grad():
            plain = base(inputs_embeds=embeddings, position_ids=positions).logits
        assert difference(plain, logits) < 1e-5
        return
    config = base.config
    rows = prompt.view(VIRTUAL, config.num_hidden_layers * 2, config.num_key_value_heads, -1)
    rows = rows.permute(1, 2, 0, 3)[:, None].expand(-1, len(tokens), -1, -1, -1)
    for first, same in [(VIRTUAL, True), (0, False)]:
        cache = DynamicCache()
        for layer in range(config.num_hidden_layers):
            cache.update(rows[2 * layer], rows[2 * layer + 1], layer)
        positions = torch.arange(first, first + LENGTH)[None]
        with torch.no_grad():
            plain = base(input_ids=tokens, past_key_values=cache, position_ids=positions).logits
        gap = difference(plain, logits)
        assert gap < 1e-5 if same else gap > MATTERS, gap


def make_adapter(name, base, batches, config, seed, unlike=None, merged=False):
    """Writes the case of an adapter; its logits at the start. `unlike`: logits of a case that a
    forgotten flag would fall back to."""
    tokens = batches[0][0]
    with torch.no_grad():
        plain = base(input_ids=tokens).logits
    torch.manual_seed(seed)
    config.task_type = "CAUSAL_LM"
    untouched = copy.deepcopy(base)
    model = peft.get_peft_model(copy.deepcopy(base), config)
    # Not the base's directory: that would be this machine's.
    config.base_model_name_or_path = "toy/gpt2" if "gpt2" in name else "toy/llama"
    perturb(model, seed)
    model.eval()
    directory = fresh(name)
    save_adapter(model, directory / "initial")
    logits = adapted_logits(model, tokens)
    expected = {"logits": logits}
    if config.is_prompt_learning:
        check_positions(model, untouched, tokens, logits)
    moved = difference(logits[:, -LENGTH:], plain)
    for other in [plain, *unlike] if unlike else [plain]:
        gap = difference(logits[:, -LENGTH:], other[:, -LENGTH:])
        assert gap > MATTERS, f"{name}: the adapter moves the logits by {gap} only"
    if merged:
        whole = copy.deepcopy(model).merge_and_unload()
        gap = difference(adapted_logits(whole, tokens), logits)
        assert gap < 2e-5, f"{name}: the merged model differs by {gap}"
        weights = dict(whole.named_parameters())
        save_file(
            {n: w.detach().contiguous() for n, w in weights.items()},
            directory / "merged.safetensors",
            metadata={"format": "pt"},
        )

    projection = getattr(config, "prefix_projection", False)
    if projection:
        expected |= prefixed("initial", select_adapter(model))
    losses, grads, noise = train_with_noise(model, select_adapter, batches, 1e-2, 0.0)
    save_adapter(model, directory / "final")
    expected |= {"losses": losses} | prefixed("grad", grads) | prefixed("noise", noise)
    if projection:
        expected |= prefixed("final", select_adapter(model))
    save_file(expected, directory / "expected.safetensors")
    assert losses[-5:].mean() < losses[:5].mean() - 0.05, f"{name}: it learns nothing"
    # Adam turns a gradient near zero into a step of whole size, by its sign: a seed may be unlucky.
    assert noise["losses"].max() < 1e-4, f"{name}: take another seed, {noise['losses'].max()}"
    finish(directory, f"{course(losses, noise)}, moves the logits by {moved:.2f}")
    return logits


def make_whole(name, base, tokens, config, seed):
    """Writes the case of an adapter that holds parameters of the model whole; not trained."""
    torch.manual_seed(seed)
    config.task_type = "CAUSAL_LM"
    model = peft.get_peft_model(copy.deepcopy(base), config)
    config.base_model_name_or_path = "toy/gpt2" if "gpt2" in name else "toy/llama"
    perturb(model, seed)
    with torch.no_grad():
        without = adapted_logits(model, tokens)
        for parameter, p in model.named_parameters():
            if p.requires_grad and ("bias" in parameter or "modules_to_save" in parameter):
                p.add_(0.2 * torch.randn(p.shape))
    model.eval()
    logits = adapted_logits(model, tokens)
    moved = difference(logits, without)
    assert moved > MATTERS, moved
    directory = fresh(name)
    save_adapter(model, directory / "initial")
    save_file({"logits": logits}, directory / "expected.safetensors")
    finish(directory, f"whole parameters move the logits by {moved:.2f}")


def write_gguf(directory, alpha, config):
    """The LoRA directory as llama.cpp has it: other names, and rows of Q and K in another order."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    writer = gguf.GGUFWriter(directory.parent / (directory.name + ".gguf"), "llama")
    writer.add_type("adapter")
    writer.add_name("toy")
    writer.add_file_type(0)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, t in load_file(directory / "adapter_model.safetensors").items():
        module, half = name.removeprefix("base_model.model.").split(".lora_")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        heads = heads.get(module.split(".")[-1])
        if half == "B.weight" and heads:
            # The two halves of each head's rotation, row by row in turn.
            t = t.view(heads, 2, -1, t.shape[1]).transpose(1, 2).reshape(t.shape).contiguous()
        to = names.get_name(module + ".weight", try_suffixes=(".weight",))
        writer.add_tensor(f"{to}.lora_{half[0].lower()}", t.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of the models' cards and unset ids
    llama, batches = make_base("llama", 21)
    gpt2, gpt2_batches = make_base("gpt2", 31)

    def lora(**options):
        options = dict(r=4, lora_alpha=8, target_modules=LINEARS) | options
        return peft.LoraConfig(**options)

    plain = make_adapter("lora", llama, batches, lora(), 58, merged=True)
    write_gguf(OUT / "lora" / "initial", 8, llama.config)
    # The same A and B as `lora`: only the flag tells them apart.
    rs = make_adapter("rslora", llama, batches, lora(use_rslora=True), 58, unlike=[plain])
    make_adapter("dora", llama, batches, lora(use_dora=True), 58, unlike=[plain, rs], merged=True)
    fused = lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    make_adapter("lora_gpt2", gpt2, gpt2_batches, fused, 42, merged=True)
    embedding = lora(target_modules=["embed_tokens", "q_proj"])
    make_adapter("lora_embedding", llama, batches, embedding, 47, merged=True)
    whole = lora(target_modules=["q_proj", "down_proj"], modules_to_save=["lm_head", "embed_tokens"])
    make_whole("whole", llama, batches[0][0], whole, 48)
    biases = lora(
        target_modules=["c_attn"], fan_in_fan_out=True, bias="all", modules_to_save=["lm_head", "ln_f"]
    )
    make_whole("whole_gpt2", gpt2, gpt2_batches[0][0], biases, 49)
    ia3 = peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    make_adapter("ia3", llama, batches, ia3, 43, merged=True)
    prefix = peft.PrefixTuningConfig(num_virtual_tokens=VIRTUAL)
    make_adapter("prefix", llama, batches, prefix, 44)
    projected = peft.PrefixTuningConfig(
        num_virtual_tokens=VIRTUAL, prefix_projection=True, encoder_hidden_size=24
    )
    make_adapter("prefix_projection", llama, batches, projected, 45)
    make_adapter("prompt", llama, batches, peft.PromptTuningConfig(num_virtual_tokens=VIRTUAL), 46)


if __name__ == "__main__":
    main()
