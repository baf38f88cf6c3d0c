"""ONNX Runtime GenAI on the CPU: blocks of 32 weights, from its model builder; int8 activations."""
import json
import sys
import time

from .peer import Absent, Peer, Speed, perplexity_of, run, tokens


class OnnxRuntime(Peer):
    name = "ONNX Runtime GenAI"

    def present(self):
        try:
            import onnxruntime_genai
        except ImportError:
            raise Absent("pip install onnxruntime-genai onnxruntime onnx-ir")
        return onnxruntime_genai.__version__

    def prepare(self, model):
        if model.bits not in (4, 8):
            raise Absent(f"no {model.bits}-bit weights on the CPU")
        # A head that is shared with the embedding has no asymmetric form that loads.
        extra = ["block_size=32", "accuracy_level=4", "shared_embeddings=false",
                 f"is_symmetric={str(model.symmetric).lower()}"]
        head = 4 if model.head_bits == 4 else 8
        extra += [f"matmul_mixed_precision=last_matmul:int{head}"] if head != model.bits else []
        model.converted("onnxruntime", lambda out: run(
            [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", model.directory(),
             "-o", out, "-p", f"int{model.bits}", "-e", "cpu", "-c",
             model.kept / "onnxruntime-cache", "--extra_options", *extra]))
        words = f"int{model.bits} {'sym' if model.symmetric else 'asym'} g32"
        return words + (f", head int{head}" if head != model.bits else "")

    def load(self, model, threads):
        import onnxruntime_genai
        config = onnxruntime_genai.Config(str(model.kept / "onnxruntime"))
        session = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        return onnxruntime_genai.Model(config)

    def generator(self, engine, length, batch):
        import onnxruntime_genai
        parameters = onnxruntime_genai.GeneratorParams(engine)
        parameters.set_search_options(max_length=length, min_length=length, batch_size=batch,
                                      do_sample=False)
        return onnxruntime_genai.Generator(engine, parameters)

    def speed(self, model, work):
        import numpy
        engine = self.load(model, work.threads)

        def generate(prompt, new, batch):
            """Seconds of the prompt, and of `new` forward passes after the first token."""
            generator = self.generator(engine, prompt + new + 1, batch)
            ids = numpy.array([tokens(prompt, model.vocabulary, row) for row in range(batch)],
                              numpy.int32)
            start = time.perf_counter()
            generator.append_tokens(ids)
            prefilled = time.perf_counter()
            generator.generate_next_token()
            first = time.perf_counter()
            for _ in range(new):
                generator.generate_next_token()
            return prefilled - start, time.perf_counter() - first

        prefill = None
        for _ in range(2 if work.prompt else 0):  # the first warms up
            prefill = work.prompt / generate(work.prompt, 0, 1)[0]
        generate(1, 2, work.batch)
        seconds = generate(max(work.depth, 1), work.decode, work.batch)[1]
        return Speed(prefill, work.batch * work.decode / seconds)

    def perplexity(self, model, text, threads):
        import numpy
        engine = self.load(model, threads)

        def logits_of(ids):
            generator = self.generator(engine, len(ids) + 1, 1)
            generator.append_tokens(numpy.array([ids], numpy.int32))
            return generator.get_output("logits")[0]

        return perplexity_of(text, logits_of)
