"""What the comparison of training asks of an engine, and how much arithmetic a step is.

An engine is, as in peer.py, an object of few fields that travels to a fresh process for every run.
"""
import ctypes
import gc
import pathlib
import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The sizes of a published model; the weights are random, of which speeds do not depend."""
    family: str  # "gpt2" or "llama"
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    tied: bool
    context: int

    @property
    def multiplied(self):
        """Parameters that a token is multiplied with: all matrices and the head, tied or not, but
        no table that rows are looked up in."""
        kv = self.hidden // self.heads * self.kv_heads
        mlp = 2 if self.family == "gpt2" else 3
        block = self.hidden * (2 * self.hidden + 2 * kv + mlp * self.ffn)
        return self.layers * block + self.vocabulary * self.hidden

    def config(self):
        """Of transformers; without dropout, which hone's models do not have."""
        import transformers
        if self.family == "gpt2":
            return transformers.GPT2Config(
                n_layer=self.layers, n_embd=self.hidden, n_head=self.heads, n_inner=self.ffn,
                vocab_size=self.vocabulary, n_positions=self.context, resid_pdrop=0.0,
                embd_pdrop=0.0, attn_pdrop=0.0)
        return transformers.LlamaConfig(
            num_hidden_layers=self.layers, hidden_size=self.hidden, intermediate_size=self.ffn,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads,
            head_dim=self.hidden // self.heads, vocab_size=self.vocabulary,
            tie_word_embeddings=self.tied, max_position_embeddings=self.context)

    def checkpoint(self, directory):
        """The directory, written in f32 where it is not there yet: config.json and
        model.safetensors, no tokenizer."""
        import torch
        import transformers
        if not (directory / "config.json").exists():
            transformers.utils.logging.disable_progress_bar()
            torch.manual_seed(1)
            partial = directory.with_name(directory.name + ".partial")
            model = transformers.AutoModelForCausalLM.from_config(self.config(),
                                                                  dtype=torch.float32)
            model.save_pretrained(partial, max_shard_size="100GB")
            partial.rename(directory)
        return directory


@dataclass(frozen=True)
class Work:
    method: str  # "full", "lora" (frozen f32) or "qlora" (frozen NF4)
    batch: int
    length: int  # tokens of each sequence
    rank: int  # of LoRA, on every linear but the head
    steps: int  # that are timed, after one that is not
    threads: int

    @property
    def tokens(self):
        """Of a step."""
        return self.batch * self.length

    def operations(self, shape):
        """Of a step, as `hone bench` counts. A parameter and token are 2 operations forward, 2 for
        what flows back and, where it is trained itself, 2 for its gradient: 6 or, under LoRA, 4.
        Attention has 4 forward for each channel and pair of positions that a causal mask shows, and
        10 backward, as its scores are computed again. LoRA's own products, the optimizer and norms
        do not count, though they take time."""
        pairs = self.batch * self.length * (self.length + 1) // 2
        each = 6 if self.method == "full" else 4
        return each * shape.multiplied * self.tokens + 14 * shape.layers * shape.hidden * pairs


@dataclass(frozen=True)
class Trained:
    """One run."""
    step_seconds: float  # median
    peak_bytes: int  # resident, of the process
    details: dict  # what else an engine says of it


@dataclass(frozen=True)
class Stepped:
    """One run of the optimizer alone."""
    bytes_per_second: float
    details: dict


class TrainingPeer:
    name = ""
    environment = {}  # that its process starts with

    def present(self):
        """The engine's version; raises peer.Absent."""
        raise NotImplementedError

    def can(self, method):
        return True

    def train(self, directory: pathlib.Path, work: Work) -> Trained:
        raise NotImplementedError

    def adamw(self, shape: Shape, steps: int, threads: int) -> Stepped:
        """Steps of AdamW in f32 on parameters of this shape, which have gradients. What counts are
        the bytes that it must move, 28 a parameter: weight, gradient and two moments are read, all
        but the gradient written."""
        raise NotImplementedError


def resident_peak():
    """Bytes of this process: since forget_loading(), where the system is Linux."""
    try:
        for line in open("/proc/self/status", encoding="ascii"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_loading():
    """Gives back what loading left, and starts the peak anew from what is resident then, where the
    system can (Linux)."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except (OSError, AttributeError):
        pass
