"""llama.cpp through llama-cpp-python."""
import time

from .peer import Absent, Peer, Speed, perplexity_of, tokens


class LlamaCppPython(Peer):
    name = "llama-cpp-python"

    def present(self):
        try:
            import llama_cpp
        except ImportError:
            raise Absent("pip install llama-cpp-python")
        return llama_cpp.__version__

    def load(self, model, context, threads, logits_all):
        import llama_cpp
        return llama_cpp.Llama(str(model.path), n_ctx=context, n_batch=512, n_ubatch=512,
                               n_threads=threads, n_threads_batch=threads, logits_all=logits_all,
                               verbose=False)

    def speed(self, model, work):
        if work.batch > 1:
            raise Absent("its interface runs one sequence")
        engine = self.load(model, work.longest, work.threads, False)
        ids = tokens(work.longest, model.vocabulary)

        def prefill(count):
            engine.reset()
            start = time.perf_counter()
            engine.eval(ids[:count])
            return count / (time.perf_counter() - start)

        # The first warms up.
        rate = [prefill(work.prompt) for _ in range(2)][-1] if work.prompt else None
        prefill(max(work.depth, 1))
        start = time.perf_counter()
        for i in range(work.decode):
            engine.eval([ids[i]])
        return Speed(rate, work.decode / (time.perf_counter() - start))

    def perplexity(self, model, text, threads):
        engine = self.load(model, text.context, threads, True)

        def logits_of(ids):
            engine.reset()
            engine.eval(ids)
            return engine.scores[:len(ids)]

        return perplexity_of(text, logits_of)
