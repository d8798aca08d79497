"""Photographs and altered copies of them, each photograph a class of its own: images of studies/second-photographs.

Every photograph is to train on, and its altered copies (the kinds of duplicates.py, but for those that only compress or
shrink) are to find it by. A copy is cut to 70 % of either side, anywhere, before it is altered, for else pixels alone
would find most. All are shrunk to a shorter side of 128 pixels, so that decoding them takes no longer than training.

    python benchmarks/altered_photographs.py photos/ photographs
"""

from __future__ import annotations

import random
from pathlib import Path

from common import command_line
from duplicates import PLAN, USUAL_QUALITY, cropped
from PIL import Image

SIDE = 128
KINDS = [kind for kind in PLAN if kind not in ("compressed", "resized")]


def save(image: Image.Image, file: Path) -> None:
    share = SIDE / min(image.size)
    small = image.resize((round(share * image.width), round(share * image.height)), Image.Resampling.LANCZOS)
    small.save(file, quality=USUAL_QUALITY)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    files = sorted(path for path in arguments.photographs.rglob("*") if path.is_file())
    for file in files:
        photograph = Image.open(file).convert("RGB")
        train, test = (arguments.out / part / file.stem for part in ("train", "test"))
        train.mkdir(parents=True)
        test.mkdir(parents=True)
        save(photograph, train / "photograph.jpg")
        for kind in KINDS:
            save(PLAN[kind](cropped(photograph, rng), rng), test / f"{kind}.jpg")
    print(f"{arguments.out}: {len(files)} photographs, {len(files) * len(KINDS)} altered copies")


if __name__ == "__main__":
    main()
