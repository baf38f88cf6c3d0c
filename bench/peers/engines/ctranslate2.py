"""CTranslate2 on the CPU: int8 per row, the only integer weights that it has there."""
import json
import sys
import time

from .peer import Absent, Peer, Speed, perplexity_of, run, tokens


class CTranslate2(Peer):
    name = "CTranslate2"

    def present(self):
        try:
            import ctranslate2
        except ImportError:
            raise Absent("pip install ctranslate2")
        return ctranslate2.__version__

    def prepare(self, model):
        if model.bits != 8:
            raise Absent(f"no {model.bits}-bit weights on the CPU")
        model.converted("ctranslate2", lambda out: run(
            [sys.executable, "-m", "ctranslate2.converters.transformers", "--model",
             model.directory(), "--output_dir", out, "--quantization", "int8_float32"]))
        return "int8 sym per row"

    def load(self, model, threads):
        import ctranslate2
        return ctranslate2.Generator(str(model.kept / "ctranslate2"), device="cpu", inter_threads=1,
                                     intra_threads=threads, compute_type="int8_float32")

    def speed(self, model, work):
        engine = self.load(model, work.threads)
        words = json.loads((model.kept / "ctranslate2" / "vocabulary.json").read_text())

        def generate(prompt, new, batch):
            """Seconds to the first tokens, and from those to the last."""
            times = []
            start = time.perf_counter()
            prompts = [[words[i] for i in tokens(prompt, len(words), row)] for row in range(batch)]
            engine.generate_batch(prompts, max_length=new, min_length=new, sampling_topk=1,
                                  include_prompt_in_result=False,
                                  callback=lambda step: times.append(time.perf_counter()))
            return times[batch - 1] - start, times[-1] - times[batch - 1]

        prefill = None
        for _ in range(2 if work.prompt else 0):  # the first warms up
            prefill = work.prompt / generate(work.prompt, 1, 1)[0]
        generate(1, 3, work.batch)
        seconds = generate(max(work.depth, 1), work.decode + 1, work.batch)[1]
        return Speed(prefill, work.batch * work.decode / seconds)

    def perplexity(self, model, text, threads):
        import numpy
        engine = self.load(model, threads)
        return perplexity_of(text, lambda ids: numpy.array(
            engine.forward_batch([ids], return_log_probs=False))[0])
