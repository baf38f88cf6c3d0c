#!/usr/bin/env python3
"""Goldens of the tokenizers: small trained tokenizer.json files and the ids Hugging Face gives.

Written with tokenizers 0.23.3, sentencepiece 0.2.3, Python 3.11.
Usage: make_tokenizers.py [--large DIR] [NAME...]

Writes tests/golden/tokenizers/: texts.json, a list of texts in many scripts, with emoji, code,
runs of whitespace and special tokens inside; and for each kind of tokenizer NAME.tokenizer.json
with NAME.expected.json: {"ids": one list for each text, with special tokens added, "plain": the
same without added or parsed special tokens for the first texts, "decoded": decode of "ids" without
special tokens, for the first texts}. --large DIR writes many more texts, and their ids, to compare once what
is too big to keep.
"""
import argparse
import collections
import io
import json
import os
import random
import re
import tempfile
import unicodedata
from pathlib import Path

import sentencepiece as spm
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokenizers"
PLAIN_TEXTS = 60
SPLIT_TEXTS = 200

# Written for this file.
FRAGMENTS = r"""
The lighthouse keeper counted the ships again, though she knew the number wouldn't change.
I'm sure they've gone; we'll see what he'd say if it's true, you're right. I'M SURE WE'LL, HE'D SAY.
"Don't," said the cook, 'isn't it late?' O'Neill's dog didn't bark. It’s late, isn’t it? Don’t!
At 7:45 p.m. on 12/03/1987 the price rose by 3.14159 % to $1,234,567.89 (€0.99, £12, ¥100000).
Call 0800-555-0199 or write to first.last+tag@example.org, see https://example.org/a/b?x=1&y=%20#z.
Der Bär aß süße Äpfel, während die Straße im Nebel lag. Übermäßig schön, dieses Gebäude!
L'été, l'élève naïf a mangé des crêpes chez François ; où est-il allé ? Ça va, merci !
El niño comió piñas en Málaga. ¿Quién vendrá mañana? ¡Nadie! Garçon, coração, não, avô, São João.
Příliš žluťoučký kůň úpěl ďábelské ódy. Zażółć gęślą jaźń. Şişli'de ığdır, İstanbul'da ılık çay.
Đường phố Hà Nội rất đông người. Tiếng Việt có dấu: ắ ằ ẳ ẵ ặ ế ề ể ễ ệ.
Старый рыбак вышел в море до рассвета. Ёжик в тумане, съешь ещё этих мягких булок.
Ο γέρος ψαράς βγήκε στη θάλασσα πριν την αυγή. Ἀρχὴ ἥμισυ παντός.
זקן הדייגים יצא לים לפני עלות השחר. שָׁלוֹם עֲלֵיכֶם.
خرج الصياد العجوز إلى البحر قبل الفجر. مَرْحَبًا بِكُمْ ١٢٣٤٥ ؟ پیرمرد ماهیگیر ۱۴۰۲
बूढ़ा मछुआरा भोर से पहले समुद्र में गया। नमस्ते, आप कैसे हैं? १२३४५
বৃদ্ধ জেলে ভোরের আগে সাগরে গেল। ০১২৩
ชาวประมงเฒ่าออกทะเลก่อนรุ่งสาง ๑๒๓ กรุงเทพฯ
முதிய மீனவர் விடியலுக்கு முன் கடலுக்குச் சென்றார்.
老渔夫在黎明前出海。今天天气很好，我们去公园吧！价格是１２３元（约２０％）。
年老いた漁師は夜明け前に海へ出た。コンピューター、ｶﾀｶﾅ、ひらがな。「こんにちは」
늙은 어부는 새벽이 오기 전에 바다로 나갔다. 안녕하세요, 오늘 날씨가 좋네요!
მოხუცი მეთევზე ზღვაში გავიდა. Ծեր ձկնորսը ծով դուրս եկավ։ አሮጌው አሳ አጥማጅ ወደ ባህር ሄደ።
😀 😂🤣 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☕️ ✈ 🧑🏿‍🚀 1️⃣2️⃣ ©®™ ♻︎ 🫠🫶🏻
∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β → ∃y ∫₀^∞ e^{-t²} dt = ½√π ≈ 0.886; ⅓ + ⅔ = Ⅰ, Ⅻ ⅷ ² ³ ¹ ⁴ ₅ ①②③
café = cafe\u0301, Å = A\u030a = \u212b, ﬁne ﬂow ﬀ, ﬆ ſt ſ K, Ǆ ǅ ǆ, ẞ ß, ½ ¼, e\u0301\u0327
def fib(n: int) -> int:\n    \"\"\"n-th\"\"\"\n    return n if n < 2 else fib(n-1) + fib(n - 2)\n\n\n\tx = [i**2 for i in range(10)]  # squares
int main(void) {\n\tfor (size_t i=0;i<0xFFu;++i)\n\t\tprintf("%zu\\\\t\\n", i);\n\treturn 0;\n}\n
<div class="a b-c">&nbsp;<br/><!-- x --></div> {"key": [1, 2.5e-3, null, true], "k": "v\\"q"} SELECT * FROM t WHERE a>=10 AND b!='x';
camelCaseName snake_case_name SCREAMING_CASE kebab-case-name HTTPServer2XMLParser v1.2.3-rc4 C++20 a_b__c
!!! ??? ... -- --- ---- ===== ***** ////// \\\\\\ ~~~ ``` ''' \"\"\" @#$%^&*()_+{}|:"<>?[];',./
zzz aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa hahahahahahahahaha 0000000000 111 11111111111111111
""".strip().split("\n")
FRAGMENTS = [re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), f)
             .replace("\\n", "\n").replace("\\t", "\t") for f in FRAGMENTS]

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<mask>",
            "<tool_call>", "<|im_start|>user\nhi<|im_end|>\n", "<|im_", "<0x0A>", "▁", "Ġ", "[WORD]",
            "<|begin_of_text|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<pad>"]
SPACES = [" ", "  ", "   ", "    ", "\t", "\n", "\n\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2003",
          "\u200b", "\u2028", "\u0085", "\u180e", "\x0b", "\x0c", "\x1c", "\ufeff", "\u202f"]


def random_char(rng):
    while True:
        limit = rng.choice([0x80, 0x250, 0x800, 0x3000, 0xA000, 0x10000, 0x20000, 0x110000])
        code = rng.randrange(limit)
        category = unicodedata.category(chr(code))
        # Neither unassigned characters nor marks that came after Unicode 3.2: the normalisation in
        # tokenizers knows Unicode 9, utf8proc 15, and they order the marks in between differently.
        old = unicodedata.ucd_3_2_0.category(chr(code)) != "Cn"
        if category not in ("Cs", "Cn") and (old or category[0] != "M"):
            return chr(code)


def make_texts(count, seed):
    rng = random.Random(seed)
    texts = ["", " ", "  ", "\n", "a", " a", "a ", "é", "\u0301", "\x00", "▁", " ▁ ", "<s>", " <s> ",
             "a<s>b</s>", "'s", "'S 'LL 'ſ", "12345678901234567890", " 1 22 333 4444", "\r\n\r\n \r\n",
             " " * 100 + "x", "\n" * 40, "\t \t \t", "x" * 200, "的" * 100, "👍" * 20, "a\u0301" * 20,
             "Hello<|im_end|>  <|im_start|>world", "<mask> a <mask>", "x[WORD] [WORD] [WORD]y",
             "supercalifragilistic", "<tool_call> <tool_call>a", "  leading and trailing  "]
    texts += FRAGMENTS
    while len(texts) < count:
        parts = []
        for _ in range(rng.randrange(1, 8)):
            kind = rng.randrange(9)
            if kind <= 2:
                words = rng.choice(FRAGMENTS).split(" ")
                start = rng.randrange(len(words))
                parts.append(" ".join(words[start:start + rng.randrange(1, 8)]))
            elif kind == 3:
                parts.append("".join(rng.choice(SPACES) * rng.choice([1, 1, 2, 5])
                                     for _ in range(rng.randrange(1, 4))))
            elif kind == 4:
                parts.append(rng.choice(SPECIALS))
            elif kind == 5:
                parts.append("".join(random_char(rng) for _ in range(rng.randrange(1, 12))))
            elif kind == 6:
                parts.append(str(rng.randrange(10 ** rng.randrange(1, 12))))
            elif kind == 7:
                line = rng.choice(FRAGMENTS)
                at = rng.randrange(len(line))
                parts.append(line[at:at + rng.randrange(1, 20)])
            else:
                parts.append(rng.choice(SPACES))
        texts.append("".join(parts))
    return texts


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def common_characters(count):
    """Chosen here, because the trainer breaks ties between equally rare ones at random."""
    counts = collections.Counter("".join(FRAGMENTS).replace(" ", "▁"))
    return sorted(counts, key=lambda c: (-counts[c], c))[:count]


def train(tokenizer, size, specials=(), alphabet=(), limit=None):
    more = {"limit_alphabet": limit} if limit else {}
    alphabet = common_characters(limit) if limit else alphabet
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(specials), show_progress=False,
                                  initial_alphabet=list(alphabet), **more)
    tokenizer.train_from_iterator(FRAGMENTS * 3, trainer)
    return tokenizer


def byte_level(pretokenizer, specials, normalizer=None, size=1200):
    t = Tokenizer(models.BPE())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pretokenizer
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return train(t, size, specials, pre_tokenizers.ByteLevel.alphabet())


def split_bytes(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated", False),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def around(tokenizer, bos, eos=None):
    single = f"{bos} $A" + (f" {eos}" if eos else "")
    names = [bos] + ([eos] if eos else [])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(n, tokenizer.token_to_id(n)) for n in names])
    return tokenizer


def edit(tokenizer, change):
    document = json.loads(tokenizer.to_str())
    change(document)
    return Tokenizer.from_str(json.dumps(document))


def sentencepiece(normalizer, pretokenizer, decoder, specials=("<unk>", "<s>", "</s>"), size=900):
    """A BPE over characters with byte fallback; trained on words, used on whole texts."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    train(t, size, limit=300)

    def rebuild(document):
        model = document["model"]
        texts = list(specials) + [f"<0x{b:02X}>" for b in range(256)]
        texts += [w for w, _ in sorted(model["vocab"].items(), key=lambda e: e[1]) if w not in texts]
        model["vocab"] = {w: i for i, w in enumerate(texts)}
    t = edit(t, rebuild)
    t.add_special_tokens(list(specials))
    if normalizer:
        t.normalizer = normalizer
    if pretokenizer:
        t.pre_tokenizer = pretokenizer
    else:
        t = edit(t, lambda document: document.update(pre_tokenizer=None))
    t.decoder = decoder
    return t


def make_gpt2():
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])


def make_roberta():
    t = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True),
                   ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)])
    t.post_processor = processors.RobertaProcessing(("</s>", t.token_to_id("</s>")),
                                                    ("<s>", t.token_to_id("<s>")))
    return t


def make_llama3():
    t = byte_level(split_bytes(LLAMA3), ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    # One word that no merge makes: only ignore_merges finds it.
    t = edit(t, lambda d: d["model"].update(
        ignore_merges=True, vocab=d["model"]["vocab"] | {"supercalifragilistic": len(d["model"]["vocab"])}))
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      special_tokens=[("<|begin_of_text|>", 0)])])
    return t


def make_qwen2():
    t = byte_level(split_bytes(QWEN2), [], normalizers.NFC())
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens([AddedToken("<tool_call>", normalized=False, special=False)])
    return t


def make_smollm():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return byte_level(pre, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def make_gpt4o():
    return byte_level(split_bytes(GPT4O), ["<|endoftext|>"])


def make_falcon():
    pre = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated", False)])
    return byte_level(pre, ["<|endoftext|>"])


LLAMA2_DECODER = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def make_llama2():
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    decoder = decoders.Sequence(LLAMA2_DECODER + [decoders.Strip(" ", 1, 0)])
    return around(sentencepiece(normalizer, None, decoder), "<s>")


def make_llama2_metaspace():
    pre = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    decoder = decoders.Sequence(LLAMA2_DECODER + [decoders.Strip(" ", 1, 0)])
    return around(sentencepiece(None, pre, decoder), "<s>", "</s>")


def make_metaspace_split():
    pre = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    return sentencepiece(None, pre, decoders.Metaspace(prepend_scheme="always", split=True))


def make_gemma():
    t = sentencepiece(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
                      decoders.Sequence(LLAMA2_DECODER), ("<pad>", "<s>", "</s>", "<unk>", "<mask>",
                                                          "<start_of_turn>", "<end_of_turn>"))
    t.add_tokens([AddedToken("\n" * n, normalized=False) for n in range(2, 10)])
    return around(t, "<s>")


def make_mixed():
    """The components that no famous model has, together."""
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([
        normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip(),
        normalizers.Replace(Regex(r"[0-9]{4,}"), "#"), normalizers.Replace("''", '"')])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("merged_with_next"),
        pre_tokenizers.Split(Regex(r"[aeiou]{2,}"), "merged_with_previous", False),
        pre_tokenizers.Split("x", "removed", False)])
    train(t, 700, ["<unk>"], limit=200)
    t.add_tokens([AddedToken("[WORD]", single_word=True, normalized=False),
                  AddedToken("cafe", normalized=True), AddedToken("<mask>", rstrip=True, lstrip=True),
                  AddedToken("ships again", normalized=False)])
    t.add_special_tokens(["<s>", "</s>"])
    return t


BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"


def make_bloom():
    return byte_level(split_bytes(BLOOM), ["<unk>", "<s>", "</s>", "<pad>"])


def make_olmo2():
    """The pieces are what the expression matches ("Removed", inverted), as converters of tiktoken say it."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "removed", True),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t = byte_level(pre, ["<|endoftext|>"])
    t.add_tokens([AddedToken("<|im_start|>", normalized=False, special=False)])
    return t


def make_neox():
    """GPT-NeoX, Pythia, MPT: runs of spaces are added tokens that are looked for after normal form C."""
    t = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>", "<|padding|>"],
                   normalizers.NFC())
    t.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    return t


def make_phi3():
    """Llama 2's, with special tokens that take the whitespace behind them."""
    t = make_llama2()
    t.add_special_tokens([AddedToken(c, normalized=False, rstrip=True)
                          for c in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")])
    return t


def wordpiece(normalizer, size=1200):
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=names, show_progress=False,
                                        limit_alphabet=300, initial_alphabet=common_characters(300))
    t.train_from_iterator(FRAGMENTS * 3, trainer)
    return t


def make_bert():
    t = wordpiece(normalizers.BertNormalizer())
    t.post_processor = processors.BertProcessing(("[SEP]", t.token_to_id("[SEP]")),
                                                 ("[CLS]", t.token_to_id("[CLS]")))
    return t


def make_bert_cased():
    t = wordpiece(normalizers.BertNormalizer(lowercase=False, strip_accents=False, handle_chinese_chars=False))
    t.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return around(t, "[CLS]", "[SEP]")


def unigram(normalizer, pretokenizer, decoder, specials, size=900, byte_fallback=False):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizer
    t.pre_tokenizer = pretokenizer
    alphabet = common_characters(250)
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=list(specials), unk_token="<unk>",
                                      show_progress=False, initial_alphabet=alphabet)
    known = set(alphabet) | set(" ")
    t.train_from_iterator(["".join(c if c in known else " " for c in line) for line in FRAGMENTS] * 3, trainer)

    def change(document):
        model = document["model"]
        if byte_fallback:
            texts = {p[0] for p in model["vocab"]}
            model["vocab"] += [[f"<0x{b:02X}>", 0.0] for b in range(256) if f"<0x{b:02X}>" not in texts]
            model["byte_fallback"] = True
        document["pre_tokenizer"] = document["pre_tokenizer"] if not byte_fallback else None
        model["vocab"] = [[p, round(score, 6)] for p, score in model["vocab"]]
    t = edit(t, change)
    t.decoder = decoder
    return t


# A few of SentencePiece's rewrites, and ones that make nothing, two characters, or take two.
RULES = [("ﬁ", "fi"), ("ﬂ", "fl"), ("\u3000", " "), ("\u00a0", " "), ("\u2003", " "), ("\t", " "), ("\n", " "),
         ("\r", " "), ("①", "1"), ("②", "2"), ("½", "1⁄2"), ("e\u0301", "é"), ("a\u0301", "á"), ("A\u030a", "Å"),
         ("\u200b", ""), ("\ufeff", ""), ("ß", "ss"), ("１", "1"), ("２", "2"), ("３", "3"), ("０", "0"), ("％", "%"),
         ("ｶ", "カ"), ("ﾀ", "タ"), ("ﾅ", "ナ"), ("…", "..."), ("ﷺ", "صلى"), ("👍🏽", "👍"), ("Ⅻ", "XII")]


def train_sentencepiece(**options):
    """The bytes of a trained SentencePiece model."""
    with tempfile.TemporaryDirectory() as scratch:
        rules = Path(scratch) / "rules.tsv"
        codes = lambda text: " ".join(f"{ord(c):X}" for c in text)
        rules.write_text("".join(f"{codes(a)}\t{codes(b)}\n" for a, b in RULES))
        out = io.BytesIO()
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(FRAGMENTS * 3), model_writer=out, normalization_rule_tsv=str(rules),
            character_coverage=0.98, num_threads=1, minloglevel=2, **options)
        return out.getvalue()


def fields(message):
    """(number, value) of each field of a protocol buffer."""
    at, out = 0, []

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while at < len(message):
        key = varint()
        if key & 7 == 0:
            out.append((key >> 3, varint()))
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        out.append((key >> 3, message[at:at + size]))
        at += size
    return out


def charsmap():
    normalizer = dict(fields(train_sentencepiece(vocab_size=700)))[3]
    return bytes(dict(fields(normalizer))[2])


def make_t5():
    pre = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                   pre_tokenizers.Metaspace(prepend_scheme="always")])
    t = unigram(normalizers.Precompiled(charsmap()), pre, decoders.Metaspace(prepend_scheme="always"),
                ["<pad>", "</s>", "<unk>"])
    t.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", t.token_to_id("</s>"))])
    return t


def make_xlmr():
    norm = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t = unigram(norm, pre_tokenizers.Metaspace(prepend_scheme="first", split=True),
                decoders.Metaspace(prepend_scheme="first"), ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return around(t, "<s>", "</s>")


def make_unigram_bytes():
    """Unigram on whole texts with byte fallback."""
    norm = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    pre = pre_tokenizers.Metaspace(prepend_scheme="always")
    decoder = decoders.Sequence(LLAMA2_DECODER + [decoders.Strip(" ", 1, 0)])
    return around(unigram(norm, pre, decoder, ["<unk>", "<s>", "</s>"], byte_fallback=True), "<s>")


# Expressions as published in the models' tokenizer.json, by their name in GGUF; then constructs that
# Oniguruma and PCRE2 spell or mean differently.
# The files of DeepSeek hold the line ends themselves.
DEEPSEEK_V3 = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
               r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""").replace(r"\r\n", "\r\n")
EXPRESSIONS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [QWEN2],
    "gpt-4o": [GPT4O],
    "tekken": [GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3],
    "qwen35": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
               r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
                   r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "bloom": [r" ?[^(\s|[.,!?…。，、।۔،])]+"],
    "interval, plus": [r"\p{N}{1,3}+|a{2}+|(?:na|ha){2}+"],
    "line ends": [r"^ *\p{L}|\s+$|\A.|.\Z|.\z"],
    "space, word, hex": [r"\s", r"\w+|[^\w\s]+", r"\h{2,}", r"[^\s\h]+|[\w-]+", r"\W\S\d"],
    "classes": [r"[[:punct:]]+|[[:space:]x]+", r"[a-c[x-z]\]]+", r"[]a]+", r"\u00e9|\x{4e00}|[\u0300-\u036f]"],
    "no dot": [".+"],
    "empty": ["x*", "(?=b)"],
    "lookbehind": [r"(?<=\p{L})\p{N}+|(?<!\s)\s"],
}


def splits_of(patterns, texts):
    """The byte lengths of the pieces of each text."""
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated", False) for p in patterns])
    return [[len(piece.encode()) for piece, _ in splitter.pre_tokenize_str(t)] for t in texts]


def write_splits(path, texts):
    path.write_text(dump([{"name": name, "patterns": patterns, "splits": splits_of(patterns, texts)}
                          for name, patterns in EXPRESSIONS.items()]))


MAKERS = {name[5:]: f for name, f in list(globals().items())
          if name.startswith("make_") and name != "make_texts"}


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def write(directory, texts, names):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "texts.json").write_text(dump(texts))
    if not names:
        write_splits(directory / "splits.json", texts[:SPLIT_TEXTS])
    for name, make in MAKERS.items():
        if names and name not in names:
            continue
        tokenizer = make()
        ids = [tokenizer.encode(t).ids for t in texts]
        decoded = [tokenizer.decode(i, skip_special_tokens=True) for i in ids[:PLAIN_TEXTS]]
        tokenizer.encode_special_tokens = True
        plain = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts[:PLAIN_TEXTS]]
        tokenizer.encode_special_tokens = False
        path = directory / f"{name}.tokenizer.json"
        path.write_text(dump(json.loads(tokenizer.to_str())))
        expected = {"ids": ids, "plain": plain, "decoded": decoded}
        (directory / f"{name}.expected.json").write_text(dump(expected))
        sizes = [p.stat().st_size for p in (path, directory / f"{name}.expected.json")]
        print(name, tokenizer.get_vocab_size(), sum(map(len, ids)), sizes)
        assert directory != OUT or max(sizes) <= 200_000


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.large:
        write(arguments.large, make_texts(30000, seed=2), arguments.names)
    else:
        write(OUT, make_texts(400, seed=1), arguments.names)
