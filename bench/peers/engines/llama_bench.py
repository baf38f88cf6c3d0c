"""llama.cpp and ik_llama.cpp by their own programs: llama-bench and, beside it in the same folder,
llama-perplexity (for quality) and llama-batched-bench (for batches)."""
import json
import os
import re

from .peer import Absent, Peer, Speed, run


class LlamaBench(Peer):
    name = "llama.cpp"
    option = "--llama-bench"
    flags, sibling_flags = ("--no-warmup",), ()

    def __init__(self, binary):
        self.binary = binary

    def present(self):
        if not self.binary:
            raise Absent(f"give {self.option} PATH")
        # llama-bench does not say which it is.
        try:
            out = run([self.sibling("llama-perplexity"), "--version"], merged=True)
            found = re.search(r"version: (.+)", out)
        except (Absent, RuntimeError):
            found = None
        return found[1] if found else ""

    def sibling(self, name):
        path = self.binary.with_name(name)
        if not os.access(path, os.X_OK):
            raise Absent(f"no {name} beside {self.binary.name}")
        return path

    def at_depth(self, work):
        return ["-p", 0, "-n", work.decode, "-d", work.depth, "-r", 1]

    def speed(self, model, work):
        if work.batch > 1:
            return Speed(None, self.batched(model, work))
        # The prompt at depth warms up; else the first of two repetitions, as its own is brief in ik.
        tests = ["-p", work.prompt, "-n", work.decode, "-r", 2]
        out = run([self.binary, "-m", model.path, "-t", work.threads, "-o", "json",
                   *(self.at_depth(work) if work.depth else tests), *self.flags])
        found = {}
        for test in json.loads(out):
            found["decode" if test["n_gen"] else "prefill"] = test["samples_ts"][-1]
        return Speed(found.get("prefill"), found.get("decode"))

    def batched(self, model, work):
        """The column S_TG of the table's one row."""
        depth = max(work.depth, 1)
        out = run([self.sibling("llama-batched-bench"), "-m", model.path, "-t", work.threads,
                   "-c", max((depth + work.decode) * work.batch, 512), "-b", 512, "-ub", 512,
                   "-npp", depth, "-ntg", work.decode, "-npl", work.batch, *self.sibling_flags],
                  merged=True)
        return float(re.search(r"^\|\s*\d+ \|.*$", out, re.M)[0].split("|")[8])

    def perplexity(self, model, text, threads):
        out = run([self.sibling("llama-perplexity"), "-m", model.path, "-t", threads, "-f",
                   text.path, "-c", text.context, "-b", text.context, "--chunks",
                   len(text.chunks), *self.sibling_flags], merged=True)
        return float(re.search(r"Final estimate: PPL.*= *([\d.]+)", out)[1])


class IkLlamaBench(LlamaBench):
    option = "--ik-llama-bench"

    def __init__(self, binary, repack):
        super().__init__(binary)
        self.name = "ik_llama.cpp -rtr 1" if repack else "ik_llama.cpp"
        self.flags = ("-w", 0, "-rtr", int(repack))
        self.sibling_flags = ("-rtr",) if repack else ()

    def at_depth(self, work):
        return ["-p", 0, "-n", 0, "-gp", f"{work.depth},{work.decode}", "-r", 1]
