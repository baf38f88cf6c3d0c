"""Which block type llama.cpp gives to which tensor, for every file type that hone writes.

Pinned: the libraries of llama-cpp-py-sync 0.11739 (PyPI, a build of llama.cpp of October 2026; needs
glibc 2.38), gguf 0.19.0, numpy 2.4.6. Models of a few shapes are written, and llama_model_quantize
says in a dry run what it would make of them.

    python tools/golden/make_gguf_mixes.py LIBRARY_FOLDER   # tests/golden/gguf_mixes.json
"""

import collections
import ctypes
import json
import pathlib
import re
import sys
import tempfile

import gguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
# llama.cpp's names and numbers of file types.
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9,
              "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15,
              "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "Q2_K_S": 21, "IQ4_NL": 25, "IQ4_XS": 30,
              "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "Q1_0": 40, "Q2_0": 41}
VOCABULARY = 64


class Params(ctypes.Structure):
    _fields_ = [("nthread", ctypes.c_int32), ("ftype", ctypes.c_int), ("output", ctypes.c_int),
                ("embedding", ctypes.c_int)] + [
        (name, ctypes.c_bool) for name in ("allow_requantize", "quantize_output", "only_copy",
                                           "pure", "keep_split", "dry_run")] + [
        (name, ctypes.c_void_p) for name in ("imatrix", "kv", "types", "prune")] + [
        ("max_buf_size", ctypes.c_size_t)]


class Importances(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


def load(folder):
    for name in ("libggml-base.so.0", "libggml-cpu.so.0", "libggml.so.0"):
        ctypes.CDLL(f"{folder}/{name}", mode=ctypes.RTLD_GLOBAL)
    lib = ctypes.CDLL(f"{folder}/libllama.so.0")
    lib.llama_model_quantize_default_params.restype = Params
    lib.llama_model_quantize.restype = ctypes.c_uint32
    lib.llama_log_set.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    lib.said = []
    lib.listen = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
        lambda level, text, data: lib.said.append(text.decode(errors="replace")))
    lib.llama_log_set(ctypes.cast(lib.listen, ctypes.c_void_p), None)
    return lib


def write_model(path, arch, layers, width, heads, kv_heads, ffn, tied):
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(layers)
    w.add_context_length(64)
    w.add_embedding_length(width)
    w.add_feed_forward_length(ffn)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_layer_norm_eps(1e-5) if arch == "gpt2" else w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("llama")
    w.add_token_list([f"<{i}>" for i in range(VOCABULARY)])
    w.add_token_scores([0.0] * VOCABULARY)
    w.add_token_types([1] * VOCABULARY)
    rng = np.random.default_rng(1)

    def add(name, *shape):
        w.add_tensor(name, (rng.standard_normal(shape) * 0.02).astype(np.float32))

    kv = width // heads * kv_heads
    add("token_embd.weight", VOCABULARY, width)
    add("output_norm.weight", width)
    if not tied:
        add("output.weight", VOCABULARY, width)
    matrices = {"attn_output": (width, width), "ffn_up": (ffn, width), "ffn_down": (width, ffn)}
    if arch == "gpt2":
        add("output_norm.bias", width)
        add("position_embd.weight", 64, width)
        matrices |= {"attn_qkv": (3 * width, width)}
    else:
        matrices |= {"ffn_gate": (ffn, width), "attn_q": (width, width), "attn_k": (kv, width),
                     "attn_v": (kv, width)}
    for i in range(layers):
        for name, shape in matrices.items():
            add(f"blk.{i}.{name}.weight", *shape)
            if arch == "gpt2" or arch == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                add(f"blk.{i}.{name}.bias", shape[0])
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{i}.{name}.weight", width)
            if arch == "gpt2":
                add(f"blk.{i}.{name}.bias", width)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return [f"blk.{i}.{name}.weight" for i in range(layers) for name in matrices], matrices


def tensor_types(lines):
    """Each tensor's type, from what llama.cpp says while it goes through the tensors."""
    types = {}
    for line in lines:
        said = re.search(r"\] (\S+) +- \[.*type = *(\w+), size = [^(]*(?:\((\w+)\))?", line)
        if said:
            types[said[1]] = (said[3] or said[2]).lower()
    return types


def main(folder):
    lib = load(folder)
    models = [  # arch, layers, width, heads, kv_heads, ffn, tied
        ("llama", 18, 256, 4, 1, 512, False), ("llama", 33, 256, 4, 2, 256, True),
        ("llama", 9, 192, 4, 4, 320, False), ("llama", 2, 64, 2, 1, 96, True),
        ("llama", 3, 80, 2, 2, 176, True), ("qwen2", 16, 256, 8, 2, 256, True),
        ("gpt2", 24, 256, 4, 4, 512, True), ("llama", 80, 256, 8, 1, 256, False)]
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        source, target = f"{scratch}/f32.gguf", f"{scratch}/q.gguf"
        for arch, layers, width, heads, kv_heads, ffn, tied in models:
            names, matrices = write_model(source, arch, layers, width, heads, kv_heads, ffn, tied)
            data = {name: np.ones(matrices[name.split(".")[2]][1], np.float32) for name in names}
            all_weights = (Importances * (len(data) + 1))(
                *(Importances(n.encode(), a.ctypes.data, a.size) for n, a in data.items()))
            for weighed in (False, True):
                for name, number in FILE_TYPES.items():
                    p = lib.llama_model_quantize_default_params()
                    p.ftype, p.nthread, p.dry_run = number, 2, True
                    if weighed:
                        p.imatrix = ctypes.cast(all_weights, ctypes.c_void_p)
                    lib.said.clear()
                    if lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(p)):
                        continue  # no fallback for these rows
                    by_part = collections.defaultdict(list)
                    for tensor, kind in tensor_types("".join(lib.said).split("\n")).items():
                        part = tensor.removesuffix(".weight").split(".")[-1]
                        if part in matrices or part in ("token_embd", "output"):
                            if tensor.endswith(".weight"):
                                by_part[part].append((tensor, kind))
                    types = {}
                    for part, all_of in by_part.items():
                        kinds = [k for _, k in sorted(
                            all_of, key=lambda t: int(t[0].split(".")[1]) if "blk" in t[0] else 0)]
                        types[part] = kinds if len(set(kinds)) > 1 else kinds[0]
                    cases.append({"arch": arch, "layers": layers, "width": width, "heads": heads,
                                  "kv_heads": kv_heads, "ffn": ffn, "tied": tied,
                                  "importances": weighed, "type": name, "number": number,
                                  "types": types})
            print(arch, layers, width, len(cases), flush=True)
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    (OUT / "gguf_mixes.json").write_text(f"[{lines}]\n")


main(*sys.argv[1:])
