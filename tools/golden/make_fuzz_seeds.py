"""Writes the seeds of the fuzz targets into tests/fuzz/corpus/<target>/seed_*.

Pinned: tokenizers 0.23.3; the other seeds are built by hand.
Usage: python tools/golden/make_fuzz_seeds.py
"""
import base64
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parents[2] / "tests" / "fuzz" / "corpus"


def put(target, name, data):
    directory = CORPUS / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"seed_{name}").write_bytes(data)


# --- GGUF
def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def gguf(pairs, tensors, alignment=32):
    """pairs: (key, type, bytes); tensors: (name, ne, type, bytes of data)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, kind, value in pairs:
        out += text(key) + struct.pack("<I", kind) + value
    data = b""
    for name, ne, kind, size in tensors:
        out += text(name) + struct.pack("<I", len(ne)) + struct.pack(f"<{len(ne)}Q", *ne)
        out += struct.pack("<IQ", kind, len(data))
        data += bytes(range(256)) * (size // 256) + bytes(range(size % 256))
        data += b"\0" * (-len(data) % alignment)
    return out + b"\0" * (-len(out) % alignment) + data


def gguf_seeds():
    scalars = [("u8", 0, b"\1"), ("i8", 1, b"\xff"), ("u16", 2, b"\1\2"), ("i16", 3, b"\1\2"),
               ("u32", 4, b"\1\2\3\4"), ("i32", 5, b"\1\2\3\4"), ("f32", 6, b"\0\0\x80\x3f"),
               ("bool", 7, b"\1"), ("s", 8, text("llama")), ("u64", 10, b"\1" * 8),
               ("i64", 11, b"\1" * 8), ("f64", 12, b"\1" * 8)]
    arrays = [(f"a{kind}", 9, struct.pack("<IQ", kind, 2) + value * 2)
              for _, kind, value in scalars]
    put("gguf", "empty", gguf([], []))
    put("gguf", "scalars", gguf(scalars, []))
    put("gguf", "arrays", gguf(arrays, []))
    put("gguf", "floats", gguf([("general.architecture", 8, text("llama"))],
                               [("a", [4, 2], 0, 32), ("b", [3], 1, 6),
                                ("c", [2, 1, 1, 2], 30, 8)]))
    put("gguf", "blocks", gguf([], [("a", [32, 2], 2, 36), ("b", [256], 12, 144),
                                    ("c", [32], 8, 34), ("d", [64], 40, 36), ("e", [5], 26, 20)]))
    put("gguf", "alignment", gguf([("general.alignment", 4, struct.pack("<I", 8))],
                                  [("a", [3], 0, 12), ("b", [1], 28, 8)], 8))
    put("gguf", "adapter", gguf([("general.architecture", 8, text("llama")),
                                 ("general.type", 8, text("adapter")),
                                 ("adapter.type", 8, text("lora")),
                                 ("adapter.lora.alpha", 6, struct.pack("<f", 8))],
                                [("w.lora_a", [4, 2], 0, 32), ("w.lora_b", [2, 3], 0, 24),
                                 ("token_embd.weight.lora_a", [2, 5], 0, 40),
                                 ("token_embd.weight.lora_b", [2, 4], 1, 16)]))
    put("gguf", "split", gguf([("split.no", 2, b"\0\0"), ("split.count", 2, b"\2\0")], []))


# --- safetensors
def safetensors(header, size):
    head = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(head)) + head + bytes(i % 256 for i in range(size))


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    put("safetensors", "empty", safetensors({}, 0))
    put("safetensors", "two", safetensors({"__metadata__": {"format": "pt"},
                                           "a": entry("F32", [2, 3], 0, 24),
                                           "b": entry("BOOL", [], 24, 25)}, 25))
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8,
             "I32": 4, "I16": 2, "I8": 1, "U8": 1, "U64": 8, "U32": 4, "U16": 2, "F8_E8M0": 1}
    header, at = {}, 0
    for dtype, size in sizes.items():
        header[dtype.lower()] = entry(dtype, [1], at, at + size)
        at += size
    header["none"] = entry("F32", [0, 7], at, at)
    put("safetensors", "types", safetensors(header, at))


# --- directories: config.json, NUL, model.safetensors
def layout(config, header, size):
    return json.dumps(config).encode() + b"\0" + safetensors(header, size)


def layout_seeds():
    def config(**quantization):
        return {"model_type": "llama", "quantization_config": quantization}

    put("layouts", "hf", layout({"model_type": "llama"},
                                {"a.weight": entry("BF16", [2, 2], 0, 8)}, 8))
    gptq = {"m.qweight": entry("I32", [4, 8], 0, 128), "m.qzeros": entry("I32", [2, 1], 128, 136),
            "m.scales": entry("F16", [2, 8], 136, 168), "m.g_idx": entry("I32", [32], 168, 296)}
    raw = layout(config(quant_method="gptq", bits=4, group_size=16, sym=False), gptq, 296)
    groups = struct.pack("<32i", *[k // 16 for k in range(32)])
    put("layouts", "gptq", raw[:-128] + groups)
    put("layouts", "gptq_act", raw[:-128] + groups[::-1][3:] + groups[:3])
    del gptq["m.g_idx"]
    put("layouts", "gptq_v2", layout(config(quant_method="gptq", bits=4, group_size=16,
                                            checkpoint_format="gptq_v2"), gptq, 168))

    nf4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
           -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
           0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
           0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
    state = b'{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [4, 32]}'
    n = len(state)
    bnb = {"a.weight.absmax": entry("F32", [2], 0, 8),
           "a.weight.quant_map": entry("F32", [16], 8, 72),
           "a.weight": entry("U8", [64, 1], 72, 136),
           "a.weight.quant_state.bitsandbytes__nf4": entry("U8", [n], 136, 136 + n)}
    raw = layout(config(quant_method="bitsandbytes", load_in_4bit=True), bnb, 136 + n)
    tail = struct.pack("<2f16f", 1, 2, *nf4) + bytes(range(64)) + state
    put("layouts", "nf4", raw[:-len(tail)] + tail)
    int8 = {"a.SCB": entry("F32", [2], 0, 8), "a.weight": entry("I8", [2, 4], 8, 16),
            "a.weight_format": entry("U8", [], 16, 17)}
    raw = layout(config(quant_method="bitsandbytes", load_in_8bit=True), int8, 17)
    put("layouts", "int8", raw[:-1] + b"\0")


# --- PEFT directories: adapter_config.json, NUL, adapter_model.safetensors
def peft_seeds():
    q = "base_model.model.layers.0.self_attn.q_proj"

    def seed(name, tensors, **config):
        header, at = {}, 0
        for tensor, shape in tensors.items():
            size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[tensor] = entry("F32", shape, at, at + size)
            at += size
        put("peft", name, json.dumps(config).encode() + b"\0" + safetensors(header, at))

    ab = {f"{q}.lora_A.weight": [2, 4], f"{q}.lora_B.weight": [8, 2]}
    seed("lora", ab, peft_type="LORA", r=4, lora_alpha=8, target_modules=["q_proj"], bias="none",
         rank_pattern={"layers.0.self_attn.[qk]_proj": 2}, alpha_pattern={"v_proj|q_proj": 1.5},
         layers_to_transform=[0, 1], layers_pattern="layers", modules_to_save=["lm_head"],
         init_lora_weights=True, base_model_name_or_path="a/b", unknown={"x": [1e16, -0.0, "\u00e9"]})
    seed("dora", {**ab, f"{q}.lora_magnitude_vector": [8]}, peft_type="LORA", r=2, use_dora=True,
         use_rslora=True, target_modules=".*\\.(q|v)_proj", exclude_modules="lm_head")
    seed("embedding", {"base_model.model.wte.lora_embedding_A": [2, 5],
                       "base_model.model.wte.lora_embedding_B": [4, 2],
                       "base_model.model.lm_head.weight": [5, 4]},
         peft_type="LORA", r=2, target_modules="all-linear", lora_dropout=0.1)
    seed("ia3", {f"{q}.ia3_l": [8, 1], "base_model.model.mlp.down_proj.ia3_l": [1, 4]},
         peft_type="IA3", target_modules=["q_proj"], feedforward_modules=["down_proj"])
    seed("prefix", {"prompt_embeddings": [3, 16]}, peft_type="PREFIX_TUNING", num_virtual_tokens=3,
         token_dim=4, num_layers=2, num_attention_heads=2, prefix_projection=True,
         encoder_hidden_size=8)
    seed("prompt", {"prompt_embeddings": [3, 4]}, peft_type="PROMPT_TUNING", num_virtual_tokens=3,
         token_dim=4, num_transformer_submodules=1)
    seed("other", {}, peft_type="LOHA", r="x")


# --- JSON
def json_seeds():
    put("json_config", "config", json.dumps({
        "model_type": "llama", "hidden_size": 64, "rms_norm_eps": 1e-6, "tie": False, "x": None,
        "rope_scaling": {"factor": 8.0, "type": "llama3"}, "layers": ["a", "b", [1, -2, 3.5e10]],
        "text": "gr\u00fc\u00dfe \u4e16\n\"\\"}).encode())
    put("json_config", "values", b'[0,-0,1e5,-1.5E-3,18446744073709551615,9223372036854775808,'
                                 b'"\\u00e9'
                                 b'\\ud83d\\ude00",true,false,null,{},[]]')
    put("json_config", "deep", b'{"a":' * 30 + b"[" * 30 + b"]" * 30 + b"}" * 30)


# --- tokenizer.json, NUL, text
def tokenizer_seeds():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    small = {c: i for i, c in enumerate("Helo wrd\u0120")}
    small |= {"He": 9, "lo": 10, "Helo": 11, "<s>": 12}
    t = Tokenizer(models.BPE(small, [("H", "e"), ("l", "o"), ("He", "lo")], fuse_unk=False))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(["<s>"])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B",
                                                     special_tokens=[("<s>", 12)])
    put("tokenizer_json", "byte_level", t.to_str().encode() + b"\0Hello world <s> 42")

    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in [0x0A, 0xC3, 0xA9]:
        pieces[f"<0x{byte:02X}>"] = len(pieces)
    for piece in ["\u2581", "h", "i", "hi", "\u2581hi"]:
        pieces[piece] = len(pieces)
    t = Tokenizer(models.BPE(pieces, [("h", "i"), ("\u2581", "hi")], unk_token="<unk>",
                             byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                         normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                   decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(["<s>", "</s>"])
    put("tokenizer_json", "sentencepiece", t.to_str().encode() + "\0hi hi \u00e9\n<s>".encode())


# --- tokenizer.json with other models, and the files that are no tokenizer.json
def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


CHARSMAP = struct.pack("<III", 8, 0x400, 0x100) + b"a\0"


def other_model_seeds():
    unigram = {
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {
            "type": "Precompiled", "precompiled_charsmap": base64.b64encode(CHARSMAP).decode()}]},
        "pre_tokenizer": {"type": "Metaspace"}, "post_processor": None,
        "decoder": {"type": "Metaspace"},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": [
            ["<unk>", 0], ["\u2581", -2], ["\u2581Hello", -3.5], ["w", -4], ["<0xC3>", 0], ["<0xB6>", 0],
            ["l", -1e-3]]}}
    put("tokenizer_json", "unigram", json.dumps(unigram, ensure_ascii=False).encode())
    wordpiece = {
        "added_tokens": [], "normalizer": {"type": "BertNormalizer", "strip_accents": None},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 9,
                  "vocab": {"[UNK]": 0, "[SEP]": 1, "[CLS]": 2, "hello": 3, "wo": 4, "##rld": 5, "1": 6,
                            "##23": 7}}}
    put("tokenizer_json", "wordpiece", json.dumps(wordpiece).encode())


def tokenizer_file_seeds():
    def seed(name, kind, data):
        put("tokenizer_files", name, bytes([kind]) + data)

    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("\u2581", -2.0, 1), ("\u2581H", -1.0, 1),
              ("e", -2.5, 1), ("l", -2.0, 1), ("ll", -1.5, 1), ("o", -3.0, 1), ("r", -3.5, 1), ("d", -3.0, 1)]
    pieces += [(f"<0x{b:02X}>", 0.0, 6) for b in (0xC3, 0xB6, 0x0A)]
    for kind, name in ((1, "unigram"), (2, "bpe")):
        proto = b"".join(field(1, field(1, t.encode()) + field(2, score) + field(3, type_))
                         for t, score, type_ in pieces)
        proto += field(2, field(3, kind) + field(4, len(pieces)) + field(40, 0) + field(41, 1) + field(42, 2))
        proto += field(3, field(2, CHARSMAP if kind == 1 else b"") + field(3, 1) + field(4, 0))
        seed(name, 0, proto)
    single = [bytes([b]) for b in range(256)]
    ranks = single + [b"He", b"ll", b"Hell", b"  "]
    seed("ranks", 1, b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(ranks)))
    lines = b"".join(b"%d %s 1\n" % (i, repr(t).encode()) for i, t in enumerate(single, 1))
    seed("rwkv", 2, lines + b"257 'He' 2\n258 \"'s\" 2\n259 '\\u00f6' 2\n")
    seed("wordpiece", 3, "\n".join("[UNK] [CLS] [SEP] hello wor ##ld ##l 1 ##2".split()).encode() + b"\n")
    vocabulary = {"H": 0, "e": 1, "l": 2, "o": 3, "He": 4, "ll": 5, "\u0120": 6, "<|endoftext|>": 7}
    seed("merges", 4, json.dumps(vocabulary, ensure_ascii=False).encode() + b"\0#version: 0.2\nH e\nl l\n")


# --- token caches; the target sets the checksum right
def token_cache(examples, vocab_size, identity="seed", spoiled={}):
    """examples: lists of (token, learned)."""
    flat = [pair for example in examples for pair in example]
    width = 2 if vocab_size <= 65536 else 4
    out = b"honetok\n" + struct.pack("<II", 1, width)
    out += struct.pack(f"<{len(flat)}{'H' if width == 2 else 'i'}", *[t for t, _ in flat])
    out += b"\0" * (-len(out) % 8)
    bits = bytearray((len(flat) + 7) // 8)
    for i, (_, learned) in enumerate(flat):
        bits[i // 8] |= learned << i % 8
    out += bits + b"\0" * (-(len(out) + len(bits)) % 8)
    ends = [0]
    for example in examples:
        ends.append(ends[-1] + len(example))
    out += struct.pack(f"<{len(ends)}q", *ends)
    text = json.dumps({"tokens": len(flat), "examples": len(examples),
                       "learned": sum(learned for _, learned in flat), "vocab_size": vocab_size,
                       "identity": identity} | spoiled, separators=(",", ":")).encode()
    return out + text + struct.pack("<QQ", len(text), 0) + b"honetok\n"


def token_cache_seeds():
    chat = [(5, 0), (6, 0), (7, 1), (8, 1)]
    text = [(i % 9, i > 0) for i in range(21)]
    put("token_cache", "empty", token_cache([], 1))
    put("token_cache", "one", token_cache([[(0, 0)]], 1))
    put("token_cache", "narrow", token_cache([chat, text, [(3, 0)], chat], 65536))
    put("token_cache", "wide", token_cache([chat, text], 65537, {"a": [1, {}]}))
    put("token_cache", "not_learned", token_cache([[(1, 0)] * 9], 9))
    put("token_cache", "first_learned", token_cache([[(1, 1)] * 9], 9))
    put("token_cache", "outside", token_cache([text], 8))
    put("token_cache", "many", token_cache([text], 9, spoiled={"tokens": 1 << 62}))
    put("token_cache", "negative", token_cache([text], 9, spoiled={"tokens": -1}))
    put("token_cache", "cut", token_cache([chat, text], 65536)[:90])


def hub_seeds():
    sha = "0123456789abcdef0123456789abcdef01234567"

    def listing(*files, commit=sha):
        names = [{"rfilename": f} for f in files]
        return json.dumps({"id": "org/name", "sha": commit, "siblings": names}).encode()
    put("hub", "listing", listing("config.json", "a/b.gguf"))
    put("hub", "traversal", listing("../../x"))
    put("hub", "nul", listing("a\0b"))
    put("hub", "split", listing("m-00001-of-00002.gguf", "-of-.gguf", "x-of-"))
    put("hub", "commit", listing(commit="../x"))
    for name, plain in (("etag", 'W/"abc-1"'), ("etag_traversal", '"../../x"'), ("path", "a/../b"),
                        ("name", "org/name"), ("slash", "a/b/")):
        put("hub", name, plain.encode())


def task_seeds():
    golden = json.loads((CORPUS.parents[1] / "golden" / "tasks.json").read_text(encoding="utf-8"))
    kinds = ["lambada", "arc_easy", "arc_challenge", "openbookqa", "piqa", "winogrande", "copa", "hellaswag", "boolq"]
    for i, kind in enumerate(kinds):
        lines = [json.dumps(r, ensure_ascii=False) for r in golden["kinds"][kind]["records"][:4]]
        put("task", kind, (str(i) + "\n".join(lines)).encode())
    foundry = [{"query": "Question: q\n", "choices": ["a", "b"], "gold": 1}, {"query": "p, because", "choices": ["A"],
               "gold": 0}]
    for i in (1, 4, 6, 9, 10):
        put("task", f"foundry_{i}", (chr(ord("0") + i) + "\n\n".join(json.dumps(r) for r in foundry)).encode())
    options = {"context_options": ["a b", "a c"], "continuation": "d", "gold": "1"}
    put("task", "options", b":" + json.dumps([options] * 3).encode())
    put("task", "cloze", b":" + json.dumps({"context": " ", "continuation": "w"}).encode())
    put("task", "ai2", b":" + json.dumps({"question": {"stem": "s", "choices": [{"text": "t", "label": "L"}]},
                                          "answerKey": "L"}).encode())
    put("task", "cut", b':{"query": "q", "choices": ["a"')


gguf_seeds()
safetensors_seeds()
layout_seeds()
peft_seeds()
json_seeds()
tokenizer_seeds()
other_model_seeds()
tokenizer_file_seeds()
token_cache_seeds()
hub_seeds()
task_seeds()
