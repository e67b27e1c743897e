"""Compress photos in a pool, and show them before and after on one sheet.

    python photos.py                           six photos of its own making
    python photos.py ~/Pictures/*.jpg --to small/
    python photos.py --photos 40 --side 800 --quality 60 --sheet sheet.png

Of each pair on the sheet, the left one is the middle of the photo as it was,
and the right one the same as it is now.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs
import trio

from stage import bar, count, extra, megabytes, options, start
from trio_isolates import open_pool

with extra():
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont, ImageOps

CELL = 240, 180  # pixels


@attrs.frozen
class Pair:
    """What comes home of a photo: how much it weighs, and a piece of it. Pillow's images can be sent."""

    name: str
    before: int
    after: int
    piece_before: Image.Image
    piece_after: Image.Image


def compress(photo: Path, *, folder: Path, side: int, quality: int) -> Pair:
    """Runs in a worker: one photo in, a smaller one out."""
    with Image.open(photo) as file:
        before = ImageOps.exif_transpose(file).convert("RGB")
    after = before.copy()
    after.thumbnail((side, side), Image.Resampling.LANCZOS)
    target = folder / f"{photo.stem}.webp"
    after.save(target, quality=quality)
    with Image.open(target) as file:
        piece = ImageOps.fit(file.convert("RGB"), before.size)
    return Pair(photo.name, photo.stat().st_size, target.stat().st_size, middle_of(before), middle_of(piece))


def middle_of(image: Image.Image) -> Image.Image:
    """The middle half of a picture, at the size of a cell."""
    width, height = image.size
    return ImageOps.fit(image.crop((width // 4, height // 4, 3 * width // 4, 3 * height // 4)), CELL)


def make_photo(job: tuple[Path, int]) -> None:
    """Runs in a worker: a landscape of hills in the evening, the same in each run, with a camera's noise."""
    path, seed = job
    rng = np.random.default_rng(seed)
    width, height = 1200, 900
    down = np.linspace(0, 1, height)[:, None]
    across = np.linspace(0, 1, width)[None, :]
    high, low = rng.uniform(20, 120, 3), rng.uniform(150, 250, 3)
    picture = high + (low - high) * down[..., None] * np.ones((1, width, 1))
    away = np.hypot((across - rng.uniform(0.2, 0.8)) * width, (down - rng.uniform(0.25, 0.45)) * height)
    picture += np.clip(1.5 - away / 60, 0, 1)[..., None] * (255, 235, 180)  # the sun
    for ridge in range(5):  # from the farthest to the nearest, which is the darkest
        waves = [rng.uniform(-1, 1) / k * np.sin(k * (across * 7 + rng.uniform(0, 9))) for k in range(1, 40)]
        line = 0.42 + 0.12 * ridge + 0.06 * sum(waves)
        picture = np.where((down > line)[..., None], low * (0.75 - 0.14 * ridge), picture)
    leaves = rng.normal(0, 9, (height // 3, width // 2)).repeat(3, 0).repeat(2, 1)
    picture += (leaves * down + rng.normal(0, 4, (height, width)))[..., None]
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, quality=97)


def draw_sheet(pairs: Sequence[Pair], path: Path) -> None:
    """Runs in a worker, as all that takes long: the pairs in two columns, each with its sizes."""
    (width, height), gap, caption = CELL, 12, 26
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    across, down = 2 * width + 2 * gap, height + caption + gap
    sheet = Image.new("RGB", (columns * across + gap, rows * down + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, pair in enumerate(pairs):
        x, y = gap + index % columns * across, gap + index // columns * down
        sheet.paste(pair.piece_before, (x, y))
        sheet.paste(pair.piece_after, (x + width + 2, y))
        draw.text((x, y + height + 4), f"{pair.name}  {megabytes(pair.before)}", "black", font)
        share = f"{megabytes(pair.after)}  ({pair.after / pair.before:.0%})"
        draw.text((x + width + 2, y + height + 4), share, "darkgreen", font)
    sheet.save(path)


async def run(arguments: Namespace, folder: Path) -> None:
    target: Path = arguments.to or folder
    handler = partial(compress, folder=target, side=arguments.side, quality=arguments.quality)
    # Pillow and numpy work in C, where nothing is interrupted: who presses Ctrl-C need not wait for them.
    async with open_pool(handler, workers=arguments.workers, on_cancel="kill") as pool:
        photos: list[Path] = arguments.photo
        if not photos:
            print(f"making {arguments.photos} photos", flush=True)
            photos = [folder / f"hills-{number}.jpg" for number in range(arguments.photos)]
            await pool.map([(path, seed) for seed, path in enumerate(photos)], make_photo)

        pairs: list[Pair] = []
        with bar("compressing", len(photos)) as advance:
            async with pool.open_map(photos) as results:  # in their order; as they are ready: ordered=False
                async for pair in results:
                    print(f"{pair.name:20} {megabytes(pair.before):>8} -> {megabytes(pair.after):>8}")
                    pairs.append(pair)
                    advance()
        await pool.run(draw_sheet, pairs, arguments.sheet)
    before, after = sum(pair.before for pair in pairs), sum(pair.after for pair in pairs)
    print(f"all {len(pairs)}: {megabytes(before)} -> {megabytes(after)}; see {arguments.sheet}")


def main(argv: Sequence[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("photo", nargs="*", type=Path, metavar="FILE", help="photos")
    parser.add_argument("--photos", type=count, default=6, metavar="N", help="how many to make (6)")
    parser.add_argument("--side", type=count, default=800, metavar="PIXELS", help="longest side (800)")
    parser.add_argument("--quality", type=count, default=75, metavar="N", help="from 1 to 100 (75)")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to keep the compressed photos")
    parser.add_argument("--sheet", type=Path, default=Path("photos.png"), help="the sheet (photos.png)")
    with tempfile.TemporaryDirectory() as folder:
        arguments = parser.parse_args(argv)
        if arguments.to is not None:
            arguments.to.mkdir(parents=True, exist_ok=True)
        trio.run(run, arguments, Path(folder))


if __name__ == "__main__":
    start(main)
