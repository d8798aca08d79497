"""What `data.color=fused` looks like beside `exact`: the same photographs, crops and draws, side by side.

The first row of the picture shows the crops before their colours are changed, the second what torchvision's operations
make of them one after another (`exact`), the third the one map of each pixel (`fused`), the fourth four times the
difference about grey. Each column gives the peak signal-to-noise ratio of the two; the median over more views is
printed, for all operations and for each alone. There is no blur or solarisation in it, which hardly differ: the blur
ends at 3 σ instead of 5.5.

    python benchmarks/color.py photos/ [--out docs/images/color.png] [--json out.json]

What it costs in accuracy is measured with one run each, at the same seeds:

    glocal sweep --recipe sce-cifar10 --grid data.color=exact,fused --grid seed=0,1
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import Table, command_line, machine, print_machine, write_json
from matplotlib.figure import Figure
from torch import Tensor

from glocal.data.sources.base import Source, Subset
from glocal.data.sources.opening import open_source
from glocal.views.crops import render_one
from glocal.views.fused import apply_fused
from glocal.views.photometric import apply_photometry
from glocal.views.plan import Jitter, View, ViewPlan

JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
COLUMNS = 6
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def views_of(source: Source, jitter: Jitter, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Crops (N, 3, S, S), and the same with exact and with fused colours, in [0, 1]."""
    view = View(size=160, scale=(0.3, 1.0), jitter=jitter, flip=0.0)
    plan, crops = ViewPlan([view]), []
    for number in range(len(source)):
        image = source[number].image
        place = plan.draw_geometry(torch.tensor([image.shape[1:]]), seed, 0, torch.tensor([number]))
        crops.append(render_one(image, place.box[0, 0].int().tolist(), False, view.size))
    given = torch.stack(crops)
    drawn = plan.draw_photometry(seed, 0, torch.arange(len(source))).view(0)
    exact = apply_photometry(given, drawn, view, mean=ZERO, std=ONE)
    fused = apply_fused(given, drawn, view, mean=ZERO, std=ONE)
    return given.float() / 255, exact, fused


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, at most 99."""
    return -10 * (a - b).square().mean(dim=(1, 2, 3)).clamp(min=10**-9.9).log10()


def draw(rows: list[tuple[str, Tensor]], ratios: Tensor, out: Path) -> None:
    figure = Figure(figsize=(1.5 * COLUMNS, 1.55 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), COLUMNS)
    for row, (name, images) in enumerate(rows):
        for column in range(COLUMNS):
            place = axes[row, column]
            place.imshow(images[column].permute(1, 2, 0).clamp(0, 1).numpy())
            place.set(xticks=[], yticks=[])
            if row == 0:
                place.set_title(f"{ratios[column]:.0f} dB", fontsize=9)
        axes[row, 0].set_ylabel(name, fontsize=9)
    figure.savefig(out, dpi=72, pil_kwargs={"optimize": True})


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("photographs")
    parser.add_argument("--out", type=Path, default=Path("docs/images/color.png"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source = open_source(arguments.photographs)
    source = Subset(source, torch.linspace(0, len(source) - 1, min(128, len(source))).long())
    alone = {name: dict.fromkeys(JITTER, 0.0) | {name: strength} for name, strength in JITTER.items()}
    described = machine()
    print_machine(described)
    table = Table({"PSNR to exact, dB": 18, "fused": 8, "a tenth below": 15, "no jitter": 11})
    found: dict[str, dict[str, float]] = {}
    for name, strengths in {"all": JITTER, **alone}.items():
        given, exact, fused = views_of(source, Jitter(probability=1.0, **strengths), arguments.seed)
        ratios = psnr(exact, fused)
        low, middle = ratios.quantile(torch.tensor([0.1, 0.5])).tolist()
        found[name] = {"median": middle, "tenth": low, "unchanged": float(psnr(exact, given).median())}
        table.row(name, *(f"{ratio:.1f}" for ratio in (middle, low, found[name]["unchanged"])))
        if name == "all":
            chosen = torch.linspace(0, len(source) - 1, COLUMNS).long()
            shown = [("crop", given), ("exact", exact), ("fused", fused), ("4 × difference", (fused - exact) * 4 + 0.5)]
            draw([(title, images[chosen]) for title, images in shown], ratios[chosen], arguments.out)
    write_json(arguments.json, described, psnr=found)


if __name__ == "__main__":
    main()
