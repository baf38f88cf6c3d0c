#!/usr/bin/env python3
"""A Llama with random weights in a published shape, as a bf16 GGUF: speeds do not depend on values.

  make_random_model.py --vocab VOCAB.gguf --out MODEL.gguf [--hidden 2048] [--layers 22] [--heads 32]
                       [--kv-heads 4] [--ffn 5632] [--context 32768]

The default is the 1.1B shape of docs/performance.md. VOCAB is any GGUF with a tokenizer; its size
is the vocabulary's. Needs Python's gguf and numpy.
"""
import argparse
import sys

import gguf
import numpy


def bf16(values):
    return (values.view(numpy.uint32) >> 16).astype(numpy.uint16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--out", required=True)
    for name, value in {"hidden": 2048, "layers": 22, "heads": 32, "kv-heads": 4, "ffn": 5632,
                        "context": 32768}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    if min(a.hidden, a.layers, a.heads, a.kv_heads, a.ffn, a.context) < 1:
        sys.exit("make_random_model.py: sizes must be 1 or more")
    if a.hidden % a.heads or a.heads % a.kv_heads:
        sys.exit("make_random_model.py: --hidden must be a multiple of --heads, and that of --kv-heads")
    try:
        reader = gguf.GGUFReader(a.vocab)
    except (OSError, ValueError) as error:
        sys.exit(f"make_random_model.py: --vocab: {error}")
    writer = gguf.GGUFWriter(a.out, "llama")
    for field in reader.fields.values():
        if field.name.startswith("tokenizer."):
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind,
                                 field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    head = a.hidden // a.heads
    writer.add_name("random")
    writer.add_context_length(a.context)
    writer.add_embedding_length(a.hidden)
    writer.add_block_count(a.layers)
    writer.add_feed_forward_length(a.ffn)
    writer.add_head_count(a.heads)
    writer.add_head_count_kv(a.kv_heads)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    generator = numpy.random.default_rng(1)

    def matrix(name, rows, columns):
        values = generator.standard_normal((rows, columns), dtype=numpy.float32) * columns**-0.5
        writer.add_tensor(name + ".weight", bf16(values).view(numpy.uint8),
                          raw_dtype=gguf.GGMLQuantizationType.BF16)

    def norm(name):
        writer.add_tensor(name + ".weight", numpy.ones(a.hidden, numpy.float32))

    matrix("token_embd", vocabulary, a.hidden)
    for i in range(a.layers):
        b = f"blk.{i}."
        norm(b + "attn_norm")
        matrix(b + "attn_q", a.hidden, a.hidden)
        matrix(b + "attn_k", a.kv_heads * head, a.hidden)
        matrix(b + "attn_v", a.kv_heads * head, a.hidden)
        matrix(b + "attn_output", a.hidden, a.hidden)
        norm(b + "ffn_norm")
        matrix(b + "ffn_gate", a.ffn, a.hidden)
        matrix(b + "ffn_up", a.ffn, a.hidden)
        matrix(b + "ffn_down", a.hidden, a.ffn)
    norm("output_norm")
    matrix("output", vocabulary, a.hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
