"""Turn a sound into a picture of its frequencies, piece by piece in a pool.

    python audio.py                            chirps of its own making
    python audio.py concert.wav --picture concert.png
    python audio.py --seconds 600 --workers 8

The samples of each piece travel to a worker, and its part of the picture
comes home. Neighbouring pieces overlap by one window, so that the picture is
the same however the sound is cut.
"""

from __future__ import annotations

import wave
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import trio

from stage import bar, count, extra, options, start
from trio_isolates import open_pool

with extra():
    import numpy as np
    import numpy.typing as npt
    from PIL import Image, ImageDraw, ImageFont

WINDOW = 1024  # samples that make one column of the picture
STEP = 256  # samples from one column to the next
PIECE = 256  # columns in one call
FLOOR = -80.0  # decibels below a full scale sine that are shown as black

Samples = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def spectrum(piece: Samples) -> Pixels:
    """Runs in a worker: samples in, columns of brightness out, the highest frequency on top."""
    windows = np.lib.stride_tricks.sliding_window_view(piece, WINDOW)[::STEP]
    shape = np.hanning(WINDOW).astype(np.float32)
    power = np.abs(np.fft.rfft(windows * shape)[:, : WINDOW // 2]) * 2 / shape.sum()
    decibels = 20 * np.log10(np.maximum(power, 1e-9))
    columns: Pixels = (np.clip(1 - decibels / FLOOR, 0, 1) * 255).astype(np.uint8).T[::-1]
    return columns


def pieces(sound: Samples) -> Iterator[Samples]:
    """Cut a sound so that each column of the picture is whole in one piece."""
    columns = 1 + (len(sound) - WINDOW) // STEP
    for first in range(0, columns, PIECE):
        last = min(first + PIECE, columns) - 1
        yield sound[first * STEP : last * STEP + WINDOW]


def make_chirps(seconds: int, rate: int = 16_000) -> Samples:
    """Return two tones that rise and fall, an echo of hiss, and a click every second."""
    time = np.arange(seconds * rate) / rate
    rising = 0.5 * np.sin(2 * np.pi * (300 * time + (3000 / seconds) * time**2))
    waving = 0.2 * np.sin(2 * np.pi * 4500 * time + 900 * np.sin(2 * np.pi * 0.4 * time))
    hiss = np.random.default_rng(1).normal(0, 0.002, len(time))
    sound: Samples = (rising + waving + hiss).astype(np.float32)
    sound[::rate] += 0.3
    return sound


def read_sound(path: Path) -> tuple[Samples, int]:
    """Return the samples, from -1 to 1, of all channels together, and how many make a second."""
    with wave.open(str(path)) as file:
        if file.getsampwidth() != 2:
            raise SystemExit(f"{path}: has {8 * file.getsampwidth()} bits a sample; only 16 are read here")
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        mono = samples.reshape(-1, file.getnchannels()).mean(1) / 32768
        return mono.astype(np.float32), file.getframerate()


def draw(columns: Pixels, rate: int, path: Path) -> None:
    """Colour the brightness, fit it to a screen, and write seconds and kilohertz beside it."""
    stops = np.array([(0, 0, 4), (80, 18, 123), (183, 55, 121), (252, 137, 97), (252, 253, 191)])
    levels = np.linspace(0, 255, len(stops))
    colours = np.stack([np.interp(np.arange(256), levels, stop) for stop in stops.T], -1).astype(np.uint8)
    plot = Image.fromarray(colours[columns]).resize((1000, 512), Image.Resampling.BOX)
    left, top, (width, height) = 60, 12, plot.size
    picture = Image.new("RGB", (left + width + 20, top + height + 40), "white")
    picture.paste(plot, (left, top))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    seconds = (columns.shape[1] * STEP + WINDOW - STEP) / rate
    for tick in range(5):
        y, x = top + height - tick * height / 4, left + tick * width / 4
        pen.text((left - 8, y), f"{tick * rate / 8000:.3g}", "black", font, anchor="rm")
        pen.text((x, top + height + 8), f"{tick * seconds / 4:.1f}", "black", font, anchor="mt")
        pen.line([(left - 5, y), (left, y)], "black")
        pen.line([(x, top + height), (x, top + height + 5)], "black")
    pen.text((left - 8, top + 20), "kHz", "black", font, anchor="rt")
    pen.text((left + width * 7 / 8, top + height + 8), "seconds", "black", font, anchor="mt")
    picture.save(path)


async def run(arguments: Namespace) -> None:
    # threads=1: else each worker may start as many threads for numpy as there are CPUs. And numpy works
    # in C, where nothing is interrupted: with on_cancel="kill", a Ctrl-C does not wait for it.
    async with open_pool(spectrum, workers=arguments.workers, threads=1, on_cancel="kill") as pool:
        if arguments.sound is None:
            print(f"making {arguments.seconds} seconds of chirps", flush=True)
            sound, rate = await pool.run(make_chirps, arguments.seconds), 16_000
        else:
            sound, rate = await pool.run(read_sound, arguments.sound)
        if len(sound) < WINDOW:
            raise SystemExit(f"{arguments.sound}: too short, it has {len(sound)} samples")

        parts = list(pieces(sound))
        done: list[Pixels] = []
        with bar("transforming", len(parts)) as advance:
            async with pool.open_map(parts) as results:
                async for columns in results:
                    done.append(columns)
                    advance()
        whole = np.hstack(done)
        await pool.run(partial(draw, whole, rate), arguments.picture)
    loudest = (WINDOW // 2 - 1 - int(np.argmax(whole.mean(1)))) * rate / WINDOW
    print(f"{len(sound) / rate:.1f} s in {len(parts)} pieces, {whole.shape[1]:,} columns")
    print(f"loudest around {loudest:,.0f} Hz; see {arguments.picture}")


def main(argv: Sequence[str]) -> None:
    parser = options(__doc__)
    parser.add_argument("sound", nargs="?", type=Path, metavar="FILE", help="a WAV file of 16 bits a sample")
    parser.add_argument("--seconds", type=count, default=30, metavar="N", help="how much to make (30)")
    parser.add_argument("--picture", type=Path, default=Path("audio.png"), help="the picture (audio.png)")
    trio.run(run, parser.parse_args(argv))


if __name__ == "__main__":
    start(main)
