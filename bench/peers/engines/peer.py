"""What the comparison asks of an engine, and what several of them share.

An engine is an object of few fields: it travels to a fresh process for every call, so that one
engine's memory, threads and caches do not meet another's.
"""
import pathlib
import re
import shutil
import subprocess
from dataclasses import dataclass


class Absent(Exception):
    """The engine is not here, or cannot do this work on this model; the message says why."""


@dataclass(frozen=True)
class Model:
    path: pathlib.Path  # the GGUF
    hf: pathlib.Path | None  # the same weights as a Hugging Face directory, if given
    kept: pathlib.Path  # where converted copies are kept
    hone: pathlib.Path  # the program that writes that directory otherwise
    encoding: str  # of most weights: "q4_0"
    head_encoding: str  # of the embedding and output head
    vocabulary: int

    @property
    def bits(self):
        return int(re.search(r"\d+", self.encoding)[0])

    @property
    def head_bits(self):
        return int(re.search(r"\d+", self.head_encoding)[0])

    @property
    def symmetric(self):
        return not re.fullmatch(r"q\d_1|q[245]_k", self.encoding)

    def directory(self):
        """The Hugging Face directory, written where it is wanted first."""
        decoded = "bf16" if self.encoding == "bf16" else "f16"
        return self.hf or self.converted("hf", lambda out: run(
            [self.hone, "convert", self.path, "--layout", "hf", "--decode-to", decoded, "--quiet",
             "--out", out]))

    def converted(self, name, convert):
        """The copy called `name`; `convert` writes it where there is none newer than the model."""
        copy = self.kept / name
        if copy.exists() and copy.stat().st_mtime >= self.path.stat().st_mtime:
            return copy
        partial = copy.with_name(copy.name + ".partial")
        for old in (partial, copy):
            shutil.rmtree(old, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        convert(partial)
        partial.rename(copy)
        return copy


@dataclass(frozen=True)
class Work:
    threads: int
    prompt: int  # tokens of the prefill that is timed, 0 = none
    decode: int  # tokens decoded one by one
    depth: int  # tokens in the cache before them
    batch: int  # sequences that decode side by side

    @property
    def longest(self):
        return max(self.prompt, self.depth + self.decode + 1) + 8


@dataclass(frozen=True)
class Speed:  # tokens per second of all sequences; None = not measured
    prefill: float | None
    decode: float | None


@dataclass(frozen=True)
class Text:
    """A text in chunks of `context` tokens, of which those from `first` on are scored."""
    path: pathlib.Path
    chunks: list  # of lists of ids
    context: int

    @property
    def first(self):
        return self.context // 2 + 1


class Peer:
    name = ""

    def present(self):
        """The engine's version; raises Absent."""
        raise NotImplementedError

    def prepare(self, model):
        """Converts the weights where the engine has a format of its own; says how it holds them."""
        head = model.head_encoding
        return model.encoding + (f", head {head}" if head != model.encoding else "")

    def speed(self, model, work):
        raise NotImplementedError

    def perplexity(self, model, text, threads):
        """None where the engine gives no logits."""
        return None


def run(command, merged=False):
    """stdout of a command that must succeed; merged: with its stderr."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT if merged else subprocess.PIPE, errors="replace")
    if done.returncode:
        lines = (done.stdout if merged else done.stderr).strip().splitlines()
        name = pathlib.Path(command[0]).name
        raise RuntimeError(f"{name}: " + (lines[-1].removeprefix(f"{name}: ") if lines
                                          else f"status {done.returncode}"))
    return done.stdout


def tokens(count, vocabulary, seed=0):
    """Ids spread over the vocabulary; another seed begins otherwise, so no prefix is cached."""
    return [(i * 7919 + seed * 101 + 13) % vocabulary for i in range(count)]


def perplexity_of(text, logits_of):
    """exp of the mean over scored tokens; logits_of gives a chunk's logits, a row per position."""
    import numpy
    total, count = 0.0, 0
    for ids in text.chunks:
        rows = numpy.asarray(logits_of(ids)[text.first - 1:-1], numpy.float32)
        rows = rows - rows.max(axis=1, keepdims=True)
        picked = rows[numpy.arange(len(rows)), ids[text.first:]]
        total += float((numpy.log(numpy.exp(rows).sum(axis=1)) - picked).sum(dtype=numpy.float64))
        count += len(rows)
    return float(numpy.exp(total / count))
