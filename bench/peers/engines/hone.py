"""hone itself: `hone bench` and `hone eval`."""
import json

from .peer import Peer, Speed, run


class Hone(Peer):
    name = "hone"

    def __init__(self, binary):
        self.binary = binary

    def json(self, *arguments):
        lines = run([self.binary, *arguments, "--json", "--quiet"]).splitlines()
        if not lines or not lines[-1].startswith("{"):
            raise RuntimeError(f"{self.binary}: it prints no JSON, so it is not hone")
        return json.loads(lines[-1])

    def present(self):
        return run([self.binary, "--version"]).split()[-1]

    def speed(self, model, work):
        out = self.json("bench", model.path, "--runs", 1, "--threads", work.threads, "--prompt",
                        work.prompt, "--decode", work.decode, "--depth", work.depth, "--batch",
                        work.batch)
        return Speed(out.get("prefill_tokens_per_second"), out["decode_tokens_per_second"])

    def perplexity(self, model, text, threads):
        scored = len(text.chunks) * (text.context - text.first)
        out = self.json("eval", model.path, "--text", text.path, "--context", text.context,
                        "--max-tokens", len(text.chunks) * text.context, "--threads", threads)
        if out["tokens"] != scored:
            raise RuntimeError(f"hone scored {out['tokens']} tokens, not {scored}")
        return out["perplexity"]
