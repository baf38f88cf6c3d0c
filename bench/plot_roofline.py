"""Draws docs/images/roofline.svg from what bench/products measured.

    python bench/plot_roofline.py products.json docs/images/roofline.svg [ISA]

A point is an encoding's product in one phase: operations per byte of weight against operations per
second. The bandwidth of a shared machine changes while products are measured, so a point stands at
the fraction of the roof that was measured beside it. Needs matplotlib.
"""
import json
import statistics
import sys

try:
    import matplotlib
except ImportError:
    sys.exit("plot_roofline.py: matplotlib is not installed")

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "hone"
matplotlib.rcParams["svg.fonttype"] = "none"
import matplotlib.pyplot as plt  # noqa: E402

PHASES = {"decode": "o", "batch 8": "s", "prefill": "^"}
# (label, colour, which cells) of each kind of compute layout.
KINDS = [
    ("4-bit codes, int8 activations", "#1f77b4", lambda c: "4-bit" in c["layout"] and "table" not in c["layout"]),
    ("4-bit codes with a table, int8", "#17becf", lambda c: "table" in c["layout"]),
    ("8-bit codes, int8 activations", "#2ca02c", lambda c: "8-bit" in c["layout"]),
    ("16-bit float panels, f32", "#ff7f0e", lambda c: c["layout"] in ("f16 panel", "bf16 panel")),
    ("f32 panels", "#d62728", lambda c: c["layout"] == "f32 panel"),
]


def main(source, target, isa=None):
    try:
        with open(source) as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"plot_roofline.py: {source}: {error}")
    isa = isa or data["cells"][-1]["isa"]
    cells = [c for c in data["cells"] if c["isa"] == isa]
    coded = {c["encoding"] for c in cells if c["activations"] == "int8"}
    cells = [c for c in cells if c["activations"] == "int8" or c["encoding"] not in coded]
    read = statistics.median(c["read_per_second"] for c in cells)
    peaks = {a: statistics.median(c["peak_per_second"] for c in cells if c["activations"] == a)
             for a in ("int8", "f32")}

    figure, axes = plt.subplots(figsize=(8, 5))
    left, right = 0.25, 4000
    for activations, style in (("int8", "-"), ("f32", "--")):
        peak = peaks[activations]
        xs = [left, peak / read, right]
        axes.plot(xs, [min(read * x, peak) / 1e9 for x in xs], style, color="0.35", linewidth=1.2)
        axes.text(right * 0.9, peak / 1e9 * 1.08,
                  f"{activations} peak, {peak / 1e9:.0f} G/s", ha="right", color="0.25")
    x = peaks["int8"] / read / 3
    axes.text(x * 0.85, read * x / 1e9, f"memory, {read / 1e9:.0f} GB/s", ha="right", color="0.25")

    for label, colour, belongs in KINDS:
        some = [c for c in cells if belongs(c)]
        for phase, marker in PHASES.items():
            points = [c for c in some if c["phase"] == phase]
            x = [c["operations"] / c["bytes"] for c in points]
            y = [c["fraction"] * min(read * i, peaks[c["activations"]]) / 1e9
                 for i, c in zip(x, points)]
            axes.plot(x, y, marker, color=colour, markersize=6, alpha=0.75, markeredgewidth=0)
        axes.plot([], [], "o", color=colour, label=label)
    kinds = axes.legend(loc="lower right", frameon=False, fontsize=9)
    axes.add_artist(kinds)
    shapes = [axes.plot([], [], m, color="0.4", label=name, linestyle="")[0]
              for name, m in (("decode, 1 token", "o"), ("8 tokens", "s"), ("512 tokens", "^"))]
    axes.legend(handles=shapes, loc="lower center", frameon=False, fontsize=9)

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_xlabel("operations per byte of weight")
    axes.set_ylabel("10\N{SUPERSCRIPT NINE} operations per second")
    axes.set_title(f"Products of every encoding, {isa}, {data['threads']} threads", fontsize=11)
    axes.grid(True, which="major", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
