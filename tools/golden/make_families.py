#!/usr/bin/env python3
"""Writes tests/golden/families/<name>/: small random checkpoints and what transformers computes.

Each directory is a Hugging Face model directory (config.json, model.safetensors, no tokenizer) with
one file more, logits.safetensors:
  input_ids     i64 [40]        a prompt that reaches past every window
  logits        f32 [40, 128]   of the whole prompt at once
  continuation  i64 [8]         the greedy continuation
  step_logits   f32 [8, 128]    step i has seen the prompt and continuation[:i]; its argmax is
                                continuation[i]
All in fp32 with eager attention (Falcon: sdpa). Before it writes, the script checks that feeding one token at a
time through the cache gives the same logits, that the directory reloads to the same logits, that
every feature listed under `matters` changes the logits when it is taken away (a golden that a
missing feature leaves alone would test nothing). Prompts are redrawn until no greedy choice is a
near-tie.

The names: `llama` is plain GQA with a head size other than hidden / heads, `llama_sharded` the same
weights in two files; `*_old_config` spells its config.json as files on the hub do (rope_theta and
rope_scaling at the top), the others as transformers 5 does (rope_parameters). `gpt2_hub_names` has
the hub's GPT-2 names: no "transformer." prefix, and the causal mask among the weights.

Made with torch 2.15.0, transformers 5.23.0, safetensors 0.8.0: python tools/golden/make_families.py
"""

import copy

import torch
from family_goldens import TOLERANCE, VOCAB, make
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    Mamba2Config,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    StableLmConfig,
)


LLAMA = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
)
# Wavelengths of 6, 20, 63 and 199 tokens and longer: kept, blended, blended, stretched.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GPT2 = dict(
    vocab_size=VOCAB,
    n_positions=64,
    n_embd=32,
    n_layer=2,
    n_head=4,
    layer_norm_epsilon=1e-5,
    bos_token_id=127,
    eos_token_id=127,
)
GEMMA3 = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    sliding_window=8,
    layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    query_pre_attn_scalar=24,
    rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
    rms_norm_eps=1e-6,
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
)


MAMBA2 = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_heads=8,
    head_dim=8,
    n_groups=2,
    state_size=16,
    conv_kernel=4,
    use_bias=True,
    layer_norm_epsilon=1e-5,
    chunk_size=16,
)
QWEN35 = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    linear_num_value_heads=4,
    linear_num_key_heads=2,
    linear_key_head_dim=8,
    linear_value_head_dim=16,
    linear_conv_kernel_dim=4,
    layer_types=["linear_attention", "full_attention", "linear_attention"],
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
)
GPT_NEOX = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=128,
    rotary_pct=0.25,
    rotary_emb_base=5000,
    bos_token_id=0,
    eos_token_id=0,
)
OPT = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    ffn_dim=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    word_embed_proj_dim=32,
    bos_token_id=2,
    eos_token_id=2,
)
GPTJ = dict(
    vocab_size=VOCAB,
    n_positions=64,
    n_embd=32,
    n_layer=2,
    n_head=2,
    n_inner=64,
    rotary_dim=8,
    bos_token_id=127,
    eos_token_id=127,
)


def without(config, **changes):
    """A copy of a config with some fields changed."""
    result = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def default_rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


def gemma_rope(local_theta, global_theta, factor):
    return {
        "full_attention": {"rope_type": "linear", "factor": factor, "rope_theta": global_theta},
        "sliding_attention": default_rope(local_theta),
    }


def gemma_matters(config):
    return [
        without(config, sliding_window=1000),
        without(config, sliding_window=config.sliding_window + 1),
        without(config, query_pre_attn_scalar=16),
        without(config, layer_types=["sliding_attention"] * config.num_hidden_layers),
        without(config, rope_parameters=gemma_rope(1e4, 1e4, 8.0)),
        without(config, rope_parameters=gemma_rope(1e4, 1e6, 1.0)),
    ]


def old_llama_config(config):
    """config.json as transformers 4 wrote it, from what transformers 5 writes."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    return config


def old_gemma_config(config):
    rope = config.pop("rope_parameters")
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    config["rope_theta"] = rope["full_attention"].pop("rope_theta")
    config["rope_scaling"] = rope["full_attention"]
    config["sliding_window_pattern"] = config.pop("_sliding_window_pattern")
    config["torch_dtype"] = config.pop("dtype")
    del config["layer_types"]
    return config


def old_neox_config(config):
    rope = config.pop("rope_parameters")
    config["rotary_pct"] = rope["partial_rotary_factor"]
    config["rotary_emb_base"] = rope["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    return config


def main():
    torch.set_num_threads(1)
    llama = LlamaConfig(**LLAMA)
    llama_matters = [without(llama, rope_parameters=default_rope(5000.0))]
    make("llama", llama, 1, matters=llama_matters)
    make("llama_sharded", llama, 1, shard_bytes="110KB")
    tied = LlamaConfig(
        **{**LLAMA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    )
    tied.num_key_value_heads = 1
    make("llama_tied_bias", tied, 2)
    llama3 = LlamaConfig(**{**LLAMA, "rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True})
    matters = [
        without(llama3, rope_parameters=default_rope(10000.0)),
        without(llama3, rope_parameters={**LLAMA3_ROPE, "rope_type": "linear"}),
    ]
    make("llama3_rope", llama3, 3, matters=matters)
    make("llama3_rope_old_config", llama3, 4, matters=matters, old_config=old_llama_config)

    gpt2 = GPT2Config(**GPT2)
    make("gpt2", gpt2, 5, matters=[without(gpt2, activation_function="silu")])
    make("gpt2_hub_names", gpt2, 6, hub_names=True)

    gemma3 = Gemma3TextConfig(**GEMMA3)
    make("gemma3", gemma3, 7, matters=gemma_matters(gemma3))
    old = Gemma3TextConfig(
        **{k: v for k, v in GEMMA3.items() if k != "layer_types"},
        sliding_window_pattern=3,
        final_logit_softcapping=4.0,
    )
    matters = [*gemma_matters(old), without(old, final_logit_softcapping=None)]
    make("gemma3_old_config", old, 8, matters=matters, old_config=old_gemma_config)

    mamba2 = Mamba2Config(**MAMBA2)
    make("mamba2", mamba2, 9, matters=[without(mamba2, use_conv_bias=False)])
    qwen35 = Qwen3_5TextConfig(**QWEN35)
    rope = {**QWEN35["rope_parameters"], "partial_rotary_factor": 0.25}
    make("qwen3_5", qwen35, 10, matters=[without(qwen35, rope_parameters=rope)])
    neox = GPTNeoXConfig(**GPT_NEOX)
    matters = [
        without(neox, use_parallel_residual=False),
        without(neox, rope_parameters={**neox.rope_parameters, "partial_rotary_factor": 0.5}),
        without(neox, rope_parameters={**neox.rope_parameters, "rope_theta": 10000.0}),
        without(neox, hidden_act="relu"),
    ]
    make("gpt_neox", neox, 11, matters=matters, old_config=old_neox_config)
    make("gpt_neox_serial", GPTNeoXConfig(**GPT_NEOX, use_parallel_residual=False), 12)
    opt = OPTConfig(**OPT)
    make("opt", opt, 13, matters=[without(opt, activation_function="gelu")])
    gptj = GPTJConfig(**GPTJ)
    matters = [without(gptj, rotary_dim=16), without(gptj, activation_function="relu")]
    make("gptj", gptj, 14, matters=matters)
    bigcode = GPTBigCodeConfig(**GPT2)
    make("gpt_bigcode", bigcode, 15, matters=[without(bigcode, activation_function="relu")])
    make_llama_like()
    make_falcon()
    make_alibi()
    make_mixtures()


def make_mixtures():
    plain = {**{k: v for k, v in LLAMA.items() if k != "head_dim"}, "num_hidden_layers": 2}
    mixtral = MixtralConfig(
        **{**plain, "intermediate_size": 32},
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
    )
    matters = [without(mixtral, num_experts_per_tok=1), without(mixtral, sliding_window=9)]
    make("mixtral", mixtral, 30, matters=matters)
    qwen = Qwen3MoeConfig(
        **plain,
        head_dim=16,
        moe_intermediate_size=16,
        num_experts=6,
        num_experts_per_tok=3,
        mlp_only_layers=[0],
    )
    make("qwen3_moe", qwen, 31, matters=[without(qwen, norm_topk_prob=True)])
    every = Qwen3MoeConfig(
        **plain,
        head_dim=16,
        moe_intermediate_size=16,
        num_experts=6,
        num_experts_per_tok=3,
        norm_topk_prob=True,
    )
    make("qwen3_moe_normalised", every, 32)


def make_falcon():
    sizes = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        ffn_hidden_size=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    falcon = FalconConfig(**sizes, new_decoder_architecture=False, multi_query=True, alibi=False)
    matters = [without(falcon, rope_parameters=default_rope(500.0))]
    make("falcon_7b", falcon, 20, matters=[*matters, without(falcon, activation="relu")])
    grouped = FalconConfig(**sizes, new_decoder_architecture=True, num_kv_heads=2, alibi=False)
    make("falcon_40b", grouped, 21, matters=[without(grouped, activation="relu")])
    one_norm = FalconConfig(
        **sizes,
        new_decoder_architecture=True,
        num_kv_heads=2,
        num_ln_in_parallel_attn=1,
        alibi=False,
        tie_word_embeddings=False,
    )
    make("falcon_11b", one_norm, 22)
    old = dict(new_decoder_architecture=False, multi_query=False, parallel_attn=False, bias=True)
    alibi = FalconConfig(**sizes, **old, alibi=True)
    make("falcon_rw", alibi, 23, matters=[without(alibi, alibi=False)])


def make_alibi():
    bloom = BloomConfig(
        vocab_size=VOCAB,
        hidden_size=36,
        n_layer=2,
        n_head=6,  # no power of two
        layer_norm_epsilon=1e-5,
        bos_token_id=1,
        eos_token_id=2,
    )
    make("bloom", bloom, 24)
    mpt = MptConfig(
        vocab_size=VOCAB,
        d_model=36,
        n_heads=6,
        n_layers=2,
        expansion_ratio=4,
        max_seq_len=128,
    )
    make("mpt", mpt, 25)  # of attn_config transformers reads little: alibi_bias_max is 8 there


def make_llama_like():
    """Families that are Llama but for a few keys."""
    mistral = MistralConfig(**LLAMA, sliding_window=8)
    make("mistral", mistral, 11, matters=[without(mistral, sliding_window=w) for w in (9, None)])
    make("mistral_full", MistralConfig(**LLAMA, sliding_window=None), 12)
    qwen2 = Qwen2Config(**{k: v for k, v in LLAMA.items() if k != "head_dim"})
    make("qwen2", qwen2, 13)
    windowed = Qwen2Config(
        **{k: v for k, v in LLAMA.items() if k != "head_dim"},
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
    )
    full = ["full_attention"] * 3
    make("qwen2_windows", windowed, 14, matters=[without(windowed, layer_types=full)])
    make("qwen3", Qwen3Config(**LLAMA), 15)
    granite = GraniteConfig(
        **{k: v for k, v in LLAMA.items() if k != "head_dim"},
        embedding_multiplier=3.0,
        attention_multiplier=0.2,
        residual_multiplier=0.5,
        logits_scaling=4.0,
    )
    factors = ("embedding", "attention", "residual")
    matters = [without(granite, **{f"{f}_multiplier": 1.0}) for f in factors]
    make("granite", granite, 16, matters=[*matters, without(granite, logits_scaling=1.0)])
    olmo2 = Olmo2Config(**{k: v for k, v in LLAMA.items() if k != "head_dim"})
    make("olmo2", olmo2, 17)
    plain = {k: v for k, v in LLAMA.items() if k != "head_dim"}
    phi3 = Phi3Config(**plain, sliding_window=8, pad_token_id=0)
    make("phi3", phi3, 26, matters=[without(phi3, sliding_window=9)])
    part = {**LLAMA["rope_parameters"], "partial_rotary_factor": 0.5}
    phi4 = Phi3Config(**{**plain, "rope_parameters": part, "tie_word_embeddings": True}, pad_token_id=0)
    make("phi3_partial", phi4, 27, matters=[without(phi4, rope_parameters=default_rope(1e4))])
    factors = [1.0 + 0.1 * i for i in range(4)]
    longrope = {
        **LLAMA["rope_parameters"],
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": [4 * f for f in factors],
    }
    for name, original, seed in (("phi3_short", 64, 33), ("phi3_long", 16, 34)):
        rope = {**longrope, "original_max_position_embeddings": original}
        config = Phi3Config(
            **{**plain, "rope_parameters": rope},
            original_max_position_embeddings=original,
            pad_token_id=0,
        )
        # Token by token transformers changes the factors on its way, and keeps the keys.
        matters = [without(config, rope_parameters=default_rope(1e4))]
        make(name, config, seed, matters=matters, tolerance=1 if original == 16 else TOLERANCE)
    norms = {k: v for k, v in plain.items() if k != "rms_norm_eps"}
    norms["rope_parameters"] = {**LLAMA["rope_parameters"], "partial_rotary_factor": 0.25}
    stablelm = StableLmConfig(**norms, use_qkv_bias=True)
    half = {**norms["rope_parameters"], "partial_rotary_factor": 0.5}
    make("stablelm", stablelm, 28, matters=[without(stablelm, rope_parameters=half)])
    parallel = StableLmConfig(**norms, use_parallel_residual=True)
    make("stablelm_parallel", parallel, 29)
    gemma2 = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        sliding_window=8,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=4.0,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    matters = [
        without(gemma2, sliding_window=9),
        without(gemma2, attn_logit_softcapping=None),
        without(gemma2, final_logit_softcapping=None),
        without(gemma2, layer_types=["full_attention"] * 3),
    ]
    make("gemma2", gemma2, 18, matters=matters)


if __name__ == "__main__":
    main()
