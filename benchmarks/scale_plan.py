"""A plan for a pretraining on very many images: bytes, epochs, products, GPU-hours, bandwidth and cores that decode.

Nothing is run. Products of the networks are counted on torch's meta device, forward for each kind of view; a view that
gets gradients counts three times (forward, and twice in the backward pass), one of the teacher once; projectors are
left out. The GPU's peak and the share of it that is reached are assumptions. Images that one core decodes and crops
in a second are those of docs/performance.md, measured on its machine with its photographs.

    python benchmarks/scale_plan.py [--peak 312] [--utilisation 0.3] [--image-bytes 110000] [--gpus 8 64 512]
"""

from __future__ import annotations

from typing import NamedTuple

import timm
import torch
from common import Table, command_line, write_json
from torch.utils.flop_counter import FlopCounterMode


class Training(NamedTuple):
    """A method on a network: sides of views with gradients and of those without, and what a core decodes a second."""

    name: str
    network: str
    learned: tuple[int, ...]
    teacher: tuple[int, ...]
    decoded: float  # images with their crops, a second and core: 1000 / ms of docs/performance.md


TRAININGS = (
    Training("MoCo v2, ResNet-50, 2 × 224", "resnet50", (224,), (224,), 1000 / (1.3 + 0.6)),
    Training(
        "DINO, ViT-S/16, 2 × 224 + 8 × 96",
        "vit_small_patch16_224",
        (224,) * 2 + (96,) * 8,
        (224,) * 2,
        1000 / (1.3 + 1.2),
    ),
)
SETS = (("ImageNet", 1_281_167, 100), ("ImageNet-22k", 14_197_122, 100), ("a billion", 1_000_000_000, 1))


def flops_of(network: str, side: int) -> int:
    """Floating-point operations of one view's forward pass, a multiplication and an addition counted as two."""
    sized = {"dynamic_img_size": True} if network.startswith("vit") else {}
    with torch.device("meta"):
        model = timm.create_model(network, num_classes=0, **sized)
        view = torch.empty(1, 3, side, side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(view)
    return int(counter.get_total_flops())


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--peak", type=float, default=312, help="TFLOP/s of a GPU in bf16: an A100's published figure")
    parser.add_argument("--utilisation", type=float, default=0.3, help="share of it that is reached: assumed")
    parser.add_argument("--image-bytes", type=float, default=110_000, help="of a file, on average: about ImageNet's")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    options = parser.parse_args()
    found = []
    rates = Table({"": 34, "GFLOP/image": 13, "images/s and GPU": 18, "MB/s and GPU": 14, "cores/GPU": 11})
    for training in TRAININGS:
        forward = {side: flops_of(training.network, side) for side in {*training.learned, *training.teacher}}
        views = ", ".join(f"{side}: {flops / 1e9:.2f} GFLOP" for side, flops in sorted(forward.items()))
        of_image = 3 * sum(forward[side] for side in training.learned) + sum(forward[side] for side in training.teacher)
        rate = options.peak * 1e12 * options.utilisation / of_image
        row = {
            "training": training.name,
            "forward_flops": forward,
            "flops_an_image": of_image,
            "images_a_second": rate,
            "bytes_a_second": rate * options.image_bytes,
            "cores": rate / training.decoded,
            "gpu_hours_of_a_million_images": 1e6 / rate / 3600,
        }
        found.append(row)
        read, cores = f"{row['bytes_a_second'] / 1e6:.0f}", f"{row['cores']:.1f}"
        rates.row(training.name, f"{of_image / 1e9:.1f}", f"{rate:,.0f}", read, cores)
        print(f"    a forward pass of one view: {views}")
    hours = Table(
        {"": 34, "images": 16, "TB": 8, "epochs": 8, "GPU-hours": 12, **{f"h on {n}": 11 for n in options.gpus}}
    )
    for training, row in zip(TRAININGS, found, strict=True):
        for name, images, epochs in SETS:
            needed = row["gpu_hours_of_a_million_images"] * images * epochs / 1e6
            size = f"{images * options.image_bytes / 1e12:.2f}"
            hours.row(
                training.name, name, size, epochs, f"{needed:,.0f}", *(f"{needed / n:,.1f}" for n in options.gpus)
            )
    assumed = {"peak": options.peak, "utilisation": options.utilisation, "image_bytes": options.image_bytes}
    write_json(options.json, assumed, trainings=found, sets=SETS)


if __name__ == "__main__":
    main()
