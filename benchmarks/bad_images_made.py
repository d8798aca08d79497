"""The corpus of bad images: 31 kinds of files that are damaged, that lie, that are no files, or right and unusual.

`bad_images.py` writes it and looks at what becomes of it.
"""

from __future__ import annotations

import io
import os
import random
import socket
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Draw = random.Random
Make = Callable[[Path, int, Draw], None]
KINDS: dict[str, Make] = {}
ORIENTATION = 0x0112


def kind(make: Make) -> Make:
    """Takes a function that writes the `number`-th file of its kind into a folder; its name is the kind's."""
    KINDS[make.__name__.replace("_", "-")] = make
    return make


# Pictures and their files.


def picture(draw: Draw, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    """A coarse pattern of colours, 24 to 96 pixels wide and high."""
    size = size or (draw.randint(24, 96), draw.randint(24, 96))
    seeds = np.random.default_rng(draw.getrandbits(32)).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(seeds).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


USUAL: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("jpg", "JPEG", "RGB", {"quality": 90}),
    ("jpg", "JPEG", "RGB", {"progressive": True}),
    ("jpg", "JPEG", "L", {}),
    ("png", "PNG", "RGB", {}),
    ("png", "PNG", "P", {}),
    ("png", "PNG", "RGBA", {}),
    ("webp", "WEBP", "RGB", {}),
    ("webp", "WEBP", "RGB", {"lossless": True}),
    ("tif", "TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("tif", "TIFF", "L", {}),
    ("gif", "GIF", "P", {}),
    ("bmp", "BMP", "RGB", {}),
    ("ppm", "PPM", "RGB", {}),
    ("tga", "TGA", "RGB", {"compression": "tga_rle"}),
    ("jp2", "JPEG2000", "RGB", {}),
    ("ico", "ICO", "RGBA", {"sizes": [(24, 24)]}),
)


def usual(draw: Draw, number: int) -> tuple[bytes, str]:
    """A right file, of one format after the other, and its ending."""
    ending, form, mode, options = USUAL[number % len(USUAL)]
    return encoded(picture(draw, mode), form, **options), ending


def put(folder: Path, number: int, content: bytes, ending: str) -> None:
    (folder / f"{number:04d}.{ending}").write_bytes(content)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, pixels: bytes, *others: bytes, depth: int = 8, color: int = 0) -> bytes:
    """A PNG file that says it has so many grey pixels, whatever they are."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    parts = [header, *others, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(*folders: tuple[list[tuple[int, int, int, int]], int], pixels: bytes = b"") -> bytes:
    """A TIFF file of folders of (tag, type, count, value), each with the offset of the next one; −1: where that is."""
    found, place = b"", 8
    for entries, following in folders:
        end = place + 6 + 12 * len(entries)
        rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        found += struct.pack("<H", len(entries)) + rows + struct.pack("<I", end if following < 0 else following)
        place = end
    return struct.pack("<2sHI", b"II", 42, 8) + found + pixels


def grey_tiff(
    width: int, height: int, offset: int, count: int, compression: int = 1
) -> list[tuple[int, int, int, int]]:
    """The entries of a grey image of 8 bits in one strip."""
    numbers = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: offset, 277: 1, 278: height, 279: count}
    return [(tag, 4, 1, value) for tag, value in numbers.items()]


# Damaged files.


@kind
def truncated(folder: Path, number: int, draw: Draw) -> None:
    content, ending = usual(draw, number)
    put(folder, number, content[: draw.randrange(1, len(content))], ending)


@kind
def flipped_bits(folder: Path, number: int, draw: Draw) -> None:
    content, ending = usual(draw, number)
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 20))):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    put(folder, number, bytes(damaged), ending)


@kind
def flipped_bits_of_headers(folder: Path, number: int, draw: Draw) -> None:
    content, ending = usual(draw, number)
    damaged = bytearray(content)
    damaged[draw.randrange(min(64, len(damaged)))] ^= 1 << draw.randrange(8)
    put(folder, number, bytes(damaged), ending)


@kind
def zeroed(folder: Path, number: int, draw: Draw) -> None:
    content, ending = usual(draw, number)
    first = draw.randrange(len(content))
    block = draw.choice((16, 512, 4096))
    put(folder, number, content[:first] + bytes(min(block, len(content) - first)) + content[first + block :], ending)


@kind
def noise(folder: Path, number: int, draw: Draw) -> None:
    content, ending = usual(draw, number)
    put(folder, number, content[: draw.choice((4, 16, 40))] + draw.randbytes(draw.randrange(3000)), ending)


@kind
def empty(folder: Path, number: int, draw: Draw) -> None:
    put(folder, number, b"", USUAL[number % len(USUAL)][0])


# Files of other kinds.


@kind
def wrong_endings(folder: Path, number: int, draw: Draw) -> None:
    content, ending = usual(draw, number)
    put(folder, number, content, draw.choice([other for other, *_ in USUAL if other != ending]))


@kind
def no_images(folder: Path, number: int, draw: Draw) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../../escaped.png", encoded(picture(draw), "PNG"))
        packed.writestr("/tmp/escaped.png", encoded(picture(draw), "PNG"))
    texts = (
        b"<html>not found</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x7fELF" + draw.randbytes(99),
    )
    put(folder, number, (*texts, archive.getvalue(), b"%PDF-1.7\n")[number % 5], USUAL[number % len(USUAL)][0])


@kind
def programs(folder: Path, number: int, draw: Draw) -> None:
    """PostScript that never ends, and that writes a file, if somebody executes it."""
    body = ("{} loop", f"({folder.parent.parent}/escaped.png) (w) file closefile")[number % 2]
    text = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 {draw.randint(1, 99)} 99\n%%EndComments\n{body}\n%%EOF\n"
    put(folder, number, text.encode(), draw.choice(("jpg", "png", "tif")))


@kind
def archives(folder: Path, number: int, draw: Draw) -> None:
    """Files that are passed over by their ending; nothing in them is unpacked."""
    with zipfile.ZipFile(folder / f"{number:04d}.zip", "w") as packed:
        packed.writestr(draw.choice(("../../escaped.png", "/tmp/escaped.png", "a.png")), encoded(picture(draw), "PNG"))


# Files that say they are large.


@kind
def bombs(folder: Path, number: int, draw: Draw) -> None:
    side = draw.choice((20_000, 60_000))
    jpeg, icon = bytearray(encoded(picture(draw), "JPEG")), png(side, side, bytes(999))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", side, side)
    bitmap = bytearray(encoded(picture(draw), "BMP"))
    bitmap[18:26] = struct.pack("<ii", side, side)
    gif = bytearray(encoded(picture(draw, "P"), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    content, ending = (
        (png(side, side, bytes(1 << 20)), "png"),
        (tiff((grey_tiff(side, side, 200, 99, 8), 0), pixels=zlib.compress(bytes(9999))), "tif"),
        (bytes(jpeg), "jpg"),
        (bytes(bitmap), "bmp"),
        (bytes(gif), "gif"),
        (struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 8, len(icon), 22) + icon, "ico"),
        (b"P5 %d %d 255\n" % (side, side), "pgm"),
    )[number % 7]
    put(folder, number, content, ending)


@cache
def packed() -> bytes:
    """128 MiB of zeros."""
    return zlib.compress(bytes(1 << 27))


@kind
def bombs_beside_pixels(folder: Path, number: int, draw: Draw) -> None:
    """A small picture whose text or colour profile unpacks to 128 MiB."""
    large = packed()
    beside = (
        chunk(b"zTXt", b"a\0\0" + large),
        chunk(b"iCCP", b"a\0\0" + large),
        chunk(b"iTXt", b"a\0\1\0\0\0" + large),
    )
    put(folder, number, png(30, 20, bytes(31 * 20), beside[number % 3]), "png")


@kind
def large(folder: Path, number: int, draw: Draw) -> None:
    """Small files of 16 megapixels, which are read."""
    image = Image.new(draw.choice(("L", "RGB", "RGBA", "P")), (4000, 4000), draw.randrange(256))
    put(folder, number, encoded(image, "PNG", compress_level=1), "png")


@kind
def huge_files(folder: Path, number: int, draw: Draw) -> None:
    """A terabyte that takes no space."""
    content, ending = usual(draw, number)
    put(folder, number, content if number % 2 else b"", ending)
    os.truncate(folder / f"{number:04d}.{ending}", 1 << 40)


@kind
def headers_without_end(folder: Path, number: int, draw: Draw) -> None:
    """Files of usual size in which Pillow goes on looking for the header, byte by byte or piece by piece."""
    before, again, ending = (
        (b"\xff\xd8\xff", b"\0", "jpg"),
        (b"\xff\xd8", b"\xff\xe1\0\2", "jpg"),
        (b"\xff\xd8", b"\xff", "jpg"),
        (png(1, 1, b"")[:33], chunk(b"tEXt", b""), "png"),
        (b"GIF89a\1\0\1\0\0\0\0!\xfe", b"\1a", "gif"),
        (b"P5 #", b"a", "pgm"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x08abcd", "jp2"),
        (b"/* XPM */", b"\n", "xpm"),
    )[number % 8]
    put(folder, number, before + again * 3_000_000, ending)


@kind
def frames_of_bombs(folder: Path, number: int, draw: Draw) -> None:
    """Several pages, of which only the first is an image of usual size."""
    side = 100_000
    pages = [(grey_tiff(20, 10, 2000, 200), -1)] + [(grey_tiff(side, side, 2000, 200), -1)] * (number % 7)
    content = tiff(*pages, (grey_tiff(side, side, 2000, 200), 0))
    put(folder, number, content.ljust(2000, b"\0") + draw.randbytes(200), "tif")


@kind
def scans(folder: Path, number: int, draw: Draw) -> None:
    """A progressive JPEG that repeats its last scan, a pass over all pixels, some thousand times."""
    content = encoded(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    put(folder, number, content[:last] + content[last:-2] * (1000 + number) + b"\xff\xd9", "jpg")


# Structures that lead nowhere.


@kind
def folders_of_tiff(folder: Path, number: int, draw: Draw) -> None:
    """Loops of pages, thousands of them, and entries that count more than there is."""
    entries = grey_tiff(20, 10, 1500, 200)
    pages: tuple[list[tuple[list[tuple[int, int, int, int]], int]], ...] = (
        [(entries, 8)],
        [(entries, -1), (entries, 8)],
        [(entries, 1 << 31)],
        [([*entries, (700, 1, 1 << 31, 9)], 0)],
        [([(tag, form, 1 << 30, value) for tag, form, _, value in entries], 0)],
        [([*entries, (330, 4, 1, 8), (34665, 4, 1, 8)], 0)],
        [(entries * 9, 0)],
    )
    content = tiff(*pages[number % 7]) if number % 8 else tiff(*[(entries, -1)] * 5000, (entries, 0))
    put(folder, number, content.ljust(1500, b"\0") + draw.randbytes(200), "tif")


@kind
def exif_lies(folder: Path, number: int, draw: Draw) -> None:
    exif = Image.Exif()
    orientation = (9, 0, 65_535, 6, 8)[number % 5]
    exif[ORIENTATION] = orientation
    good = exif.tobytes()
    lies = (
        good,
        good[: draw.randrange(6, len(good))],
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + draw.randbytes(400),
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\2\xff\xff\xff\xff\0\0\0\x08",
        b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0",
    )[number % 5 if number % 2 else 0]
    form = ("JPEG", "PNG", "WEBP")[number % 3]
    put(folder, number, encoded(picture(draw), form, exif=lies), form.lower())


# Right files that are unusual.


@kind
def narrow(folder: Path, number: int, draw: Draw) -> None:
    length = draw.choice((1, 2, 999, 20_000))
    size = (1, length) if number % 2 else (length, 1)
    form = ("PNG", "JPEG", "TIFF", "BMP")[number % 4]
    put(folder, number, encoded(picture(draw, "RGB", size), form), form.lower())


@kind
def animated(folder: Path, number: int, draw: Draw) -> None:
    size = (draw.randint(9, 60), draw.randint(9, 60))
    frames = [picture(draw, "RGB", size) for _ in range(draw.randint(2, 6))]
    form = ("GIF", "PNG", "WEBP", "TIFF")[number % 4]
    put(folder, number, encoded(frames[0], form, save_all=True, append_images=frames[1:]), form.lower())


@kind
def colors_for_print(folder: Path, number: int, draw: Draw) -> None:
    form, mode = (("JPEG", "CMYK"), ("TIFF", "CMYK"), ("TIFF", "LAB"), ("TIFF", "YCbCr"))[number % 4]
    image = picture(draw).convert("RGB")
    made = Image.merge("LAB", image.split()) if mode == "LAB" else image.convert(mode)
    put(folder, number, encoded(made, form), form.lower())


@kind
def deep(folder: Path, number: int, draw: Draw) -> None:
    grey = np.asarray(picture(draw, "L")).astype(np.float32)
    values = (
        grey.astype(np.uint16) * 257,
        grey.astype(np.int32) * 300 - 9,
        grey / 255,
        np.where(grey < 50, np.nan, grey),
    )
    form = "PNG" if number % 8 == 0 else "TIFF"
    put(folder, number, encoded(Image.fromarray(values[number % 4]), form), form.lower())


@kind
def transparent(folder: Path, number: int, draw: Draw) -> None:
    form, mode = (("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("GIF", "P"), ("WEBP", "RGBA"))[number % 5]
    image = picture(draw, mode)
    if mode != "P":
        image.putalpha(picture(draw, "L", image.size))
    options = {"transparency": draw.randrange(256)} if mode == "P" else {}
    put(folder, number, encoded(image, form, **options), form.lower())


NAMES = (
    *(b"line\nbreak", b"return\rand\ttab", b"two\r\nlines", b"quote'\"", b"-rf", b"--out", b"emoji \xf0\x9f\x98\x80"),
    *(
        b"latin \xe9",
        b"\xff\xfe",
        b"x" * 250,
        b"\x1b[31mred\x1b[0m",
        b"\x1b]0;title\x07",
        b"bell\x07back\x08",
        b"[bold]",
    ),
    *(b":smile:", b"<script>alert(1)</script>".replace(b"/", b"-"), b"=1+1", b"a,b;c|d", b"back\\nslash", b"%s %d {0}"),
    *(
        b" spaces ",
        b"#comment",
        b"\xe2\x80\xaegnp",
        b"\xc2\x85next\xe2\x80\xa8line",
        b"$(touch escaped)",
        b"`a`",
        b"*?",
    ),
)


@kind
def names(folder: Path, number: int, draw: Draw) -> None:
    """Odd names, of images and of files that are none."""
    name = NAMES[number % len(NAMES)] + (b"" if number < len(NAMES) else b"%d" % (number // len(NAMES)))
    content = encoded(picture(draw), "PNG") if number % 3 else b"no image"
    with open(os.path.join(os.fsencode(folder), name[:250] + b".png"), "wb") as file:
        file.write(content)


# What is no file.


@kind
def links(folder: Path, number: int, draw: Draw) -> None:
    target = folder / f"{number:04d}.target"
    targets = ("gone.png", f"{number:04d}.png", "/dev/zero", "/dev/stdin", str(target), ".", "..", "/proc/self/mem")
    if number % 8 == 4:
        target.write_bytes(encoded(picture(draw), "PNG"))
    (folder / f"{number:04d}.png").symlink_to(targets[number % 8])


@kind
def no_files(folder: Path, number: int, draw: Draw) -> None:
    place = folder / f"{number:04d}.jpg"
    if number % 3 == 0:
        os.mkfifo(place)
    elif number % 3 == 1 and len(os.fsencode(place)) < 100:  # the longest name of a socket
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(place))
    else:
        try:
            os.mknod(place, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # that of /dev/zero
        except OSError:  # not everybody may make devices, and not everywhere
            os.mkfifo(place)


@kind
def folders(folder: Path, number: int, draw: Draw) -> None:
    """Folders that are named like images, with an image or nothing in them."""
    (folder / f"{number:04d}.jpg").mkdir()
    if number % 2:
        put(folder / f"{number:04d}.jpg", 0, encoded(picture(draw), "JPEG"), "jpg")


@kind
def forbidden(folder: Path, number: int, draw: Draw) -> None:
    """Files that nobody may read but the superuser."""
    content, ending = usual(draw, number)
    put(folder, number, content, ending)
    (folder / f"{number:04d}.{ending}").chmod(0)


# Values.


def npy(header: str, content: bytes) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + content


@kind
def arrays(folder: Path, number: int, draw: Draw) -> None:
    """Pickles, promises, values that are no numbers; `.npy` is passed over where images are RGB."""
    pickled = io.BytesIO()
    np.save(pickled, np.array([folder], object), allow_pickle=True)
    right = io.BytesIO()
    np.save(right, np.asarray(picture(draw, ("L", "RGB")[number % 2])))
    content = (
        right.getvalue(),
        pickled.getvalue(),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1), }", b""),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9999, 9999), }", bytes(99)),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (3, 3), }", b"cos\nsystem\n"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 3), }", bytes(99)),
        npy("__import__('os').system('touch escaped')", b""),
        right.getvalue()[: draw.randrange(10, 400)],
        npy("{'descr': '<c8', 'fortran_order': False, 'shape': (2, 2), }", bytes(32)),
    )[number % 9]
    put(folder, number, content, "npy")


def dicom(image: np.ndarray, syntax: str, *, claimed: int | None = None) -> bytes:
    """A DICOM file by the format's own rules: explicit values, little endian."""

    def element(group: int, name: int, kind: str, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        long = kind in ("OB", "OW")
        size = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
        return struct.pack("<HH2s", group, name, kind.encode()) + size + value

    meta = element(2, 0x10, "UI", syntax.encode())
    rows, columns = (claimed, claimed) if claimed else image.shape
    numbers = {2: 1, 0x10: rows, 0x11: columns, 0x100: 16, 0x101: 16, 0x102: 15, 0x103: 0}
    parts = [element(0x28, name, "US", struct.pack("<H", value)) for name, value in numbers.items()]
    parts.insert(1, element(0x28, 4, "CS", b"MONOCHROME2 "))
    body = b"".join(parts) + element(0x7FE0, 0x10, "OW", image.astype("<u2").tobytes())
    if syntax.endswith(".99"):
        packer = zlib.compressobj(9, wbits=-15)
        body = packer.compress(body) + packer.flush()
    start = bytes(128) + b"DICM" + element(2, 0, "UL", struct.pack("<I", len(meta)))
    return start + meta + body


@kind
def scanners(folder: Path, number: int, draw: Draw) -> None:
    """DICOM: right, truncated, lying, compressed as a whole."""
    grey = np.asarray(picture(draw, "L")).astype(np.uint16) * 200
    plain, deflated = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
    right = dicom(grey, plain)
    content = (
        right,
        right[: draw.randrange(132, len(right))],
        dicom(grey, plain, claimed=65_535),
        dicom(grey, plain, claimed=9_999),
        dicom(np.zeros((4000, 4000), np.uint16), deflated),
        bytes(128) + b"DICM" + draw.randbytes(300),
    )[number % 6]
    put(folder, number, content, "dcm")


def write_corpus(folder: Path, each: int, seed: int) -> int:
    """Writes `each` images of every kind, always the same of a seed, and says how many files that are."""
    for name, make in KINDS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            make(folder / name, number, random.Random(f"{seed} {name} {number}"))
    return each * len(KINDS)
