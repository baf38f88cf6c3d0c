"""OpenVINO GenAI on the CPU: its own int4 (groups of 32) or int8 (per row) of a Hugging Face model.

Speeds are those of LLMPipeline; logits come from the same model in the runtime below it.
"""
import sys

from .peer import Absent, Peer, Speed, perplexity_of, run, tokens

GROUP = 32  # of GGUF's 4-bit blocks


class OpenVino(Peer):
    name = "OpenVINO GenAI"

    def present(self):
        try:
            import openvino_genai
        except ImportError:
            raise Absent("pip install openvino-genai optimum-intel nncf")
        return openvino_genai.__version__.split("-")[0]

    def kept(self, model):
        return model.kept / "openvino"

    def prepare(self, model):
        if model.bits == 4:
            how = ["--weight-format", "int4", "--group-size", GROUP, "--ratio", "1.0"]
            how += ["--sym"] if model.symmetric else []
            how += ["--all-layers"] if model.head_bits == 4 else []
            words = f"int4 {'sym' if model.symmetric else 'asym'} g{GROUP}"
            words += "" if model.head_bits == 4 else ", head int8"
        elif model.bits == 8:
            how, words = ["--weight-format", "int8", "--sym"], "int8 sym per row"
        elif model.bits == 16:
            how, words = ["--weight-format", "fp16"], "fp16"
        else:
            raise Absent(f"no {model.bits}-bit weights")
        model.converted("openvino", lambda out: run(
            [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino", "-m",
             model.directory(), "--task", "text-generation-with-past", *how, out]))
        return words

    def config(self, threads):
        return {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}

    def speed(self, model, work):
        import numpy
        import openvino
        import openvino_genai
        pipeline = openvino_genai.LLMPipeline(str(self.kept(model)), "CPU",
                                              **self.config(work.threads))

        def generate(prompt, new, seed):
            """Seconds to the first token, and tokens per second after it."""
            ids = numpy.array([tokens(prompt, model.vocabulary, seed + row)
                               for row in range(work.batch)])
            inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids),
                                                    openvino.Tensor(numpy.ones_like(ids)))
            metrics = pipeline.generate(inputs, max_new_tokens=new, ignore_eos=True,
                                        do_sample=False).perf_metrics
            first, all_of_it = metrics.get_ttft().mean, metrics.get_generate_duration().mean
            return first / 1e3, work.batch * (new - 1) / max(all_of_it - first, 1e-3) * 1e3

        prefill = None
        for seed in (1, 2) if work.prompt else ():  # the first warms up
            prefill = work.prompt / generate(work.prompt, 1, seed)[0]
        generate(1, 4, 100)
        return Speed(prefill, generate(max(work.depth, 1), work.decode + 1, 200)[1])

    def perplexity(self, model, text, threads):
        import numpy
        import openvino
        compiled = openvino.Core().compile_model(str(self.kept(model) / "openvino_model.xml"),
                                                 "CPU", self.config(threads))
        request = compiled.create_infer_request()

        def logits_of(ids):
            request.reset_state()
            row = numpy.array([ids])
            return request.infer({"input_ids": row, "attention_mask": numpy.ones_like(row),
                                  "position_ids": numpy.arange(len(ids))[None],
                                  "beam_idx": numpy.zeros(1, numpy.int32)})["logits"][0]

        return perplexity_of(text, logits_of)
