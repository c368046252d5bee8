"""Neurons learning, as videos: MP4 through imageio-ffmpeg, GIF through Pillow where that is missing.

A video is decoration: where neither can be written, a line says so, and the run goes on.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from neuron_mech import store
from neuron_mech.cluster import processes
from neuron_mech.errors import RunError, first_line
from neuron_mech.paper.figures.styles import NEUTRAL, style
from neuron_mech.paper.figures.watching import SCALE, CategoryHistogram, handles, samples_of, value_edges, watched

FRAMES, RATE = 360, 30
"""Frames of a video, and frames a second."""

LARGEST = 5_000_000
"""Bytes of a video, at most."""

Draw = Callable[[int], None]
"""(number of a frame) -> None: draws this frame on the figure's canvas."""


def dynamics(found: xr.Dataset, site: str) -> tuple[Figure, Draw]:
    """(a figure of a site's closely watched neurons, the function that draws one frame into it).

    `found` is learning_dynamics.nc. Time grows as the square of the frame number, so that the beginning, where most
    happens, runs slowly. Between two recordings every sample's value is interpolated linearly.
    """
    epochs, accuracy = found.close_epoch.values, found.accuracy.values
    at = watched(found, site)
    values, neurons = at.pre_activation.values, at.close_neuron_index.values
    label = found.label.sel(site=site).item()
    with style():
        figure = Figure(figsize=(8.0, 4.5), dpi=160)
        figure.set_layout_engine("none")
        canvas = FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, len(neurons), height_ratios=(12, 1), left=0.03, right=0.97, bottom=0.21, top=0.85)
        grid.update(hspace=0.55, wspace=0.12)
        histograms = []
        for index, neuron in enumerate(neurons):
            axes = figure.add_subplot(grid[0, index])
            axes.set(title=f"neuron {neuron} of {label}", xlabel="pre-activation")
            edges = value_edges(values[:, :, index])
            histograms.append(CategoryHistogram(axes, samples_of(at, index), edges))
        bar = figure.add_subplot(grid[1, :])
        bar.set(xlim=(0, 1), ylim=(0, 1), yticks=[])
        marks = np.unique(np.round(np.array([0, 0.02, 0.1, 0.25, 0.5, 1.0]) * found.attrs["epochs"]))
        bar.set_xticks(np.sqrt(marks / found.attrs["epochs"]), [f"{mark:.0f}" for mark in marks])
        bar.set_xlabel("epoch")
        progress = bar.barh(0.5, 0, height=1, color=NEUTRAL)[0]
        figure.legend(handles=handles(), loc="lower center", ncols=3, frameon=False, bbox_to_anchor=(0.5, 0.02))
        figure.text(0.5, 0.012, SCALE, ha="center", va="bottom", fontsize=6.5, color=NEUTRAL)
        said = figure.text(0.5, 0.955, "", ha="center", va="center", fontsize=10.5, family="monospace")
        moving = [said, progress, *(patch for histogram in histograms for patch in histogram.patches)]
        for artist in moving:
            artist.set_animated(True)
        canvas.draw()
        still = canvas.copy_from_bbox(figure.bbox)

    def draw(frame: int) -> None:
        place = frame / (FRAMES - 1)
        epoch = min(found.attrs["epochs"] * place**2, epochs[-1])
        after = int(np.clip(np.searchsorted(epochs, epoch), 1, len(epochs) - 1))
        weight = float(np.clip((epoch - epochs[after - 1]) / (epochs[after] - epochs[after - 1]), 0, 1))
        now = (1 - weight) * values[after - 1] + weight * values[after]
        right = (1 - weight) * accuracy[after - 1] + weight * accuracy[after]
        step = round(epoch * found.attrs["steps"] / found.attrs["epochs"])
        for index, histogram in enumerate(histograms):
            histogram.show(now[:, index])
        progress.set_width(place)
        said.set_text(f"step {step:6,d}   epoch {epoch:5.2f}   accuracy on these samples {100 * right:5.1f} %")
        canvas.restore_region(still)
        for artist in moving:
            (artist.axes or figure).draw_artist(artist)

    return figure, draw


def write(stem: Path, figure: Figure, draw: Draw, frames: int | None = None) -> list[str]:
    """Write `stem`.mp4, or .gif where there is no MP4 encoder, below LARGEST bytes, with a progress bar.

    It has FRAMES frames where no number of them is given.

    Returns lines to print: where the video is, or why there is none. Raises nothing.
    """
    said: list[str] = []
    if not processes.first():
        return said
    for suffix, encode in ((".mp4", _mp4), (".gif", _gif)):
        path = stem.with_name(stem.name + suffix)
        try:
            store.write_result(path, partial(encode, figure, draw, frames or FRAMES, stem.name))
        except Exception as error:  # an encoder may raise anything, and a missing video must not end a run
            reason = error if isinstance(error, RunError) else first_line(error)
            said.append(f"no {suffix[1:]} of {stem.name}: {reason}")
        else:
            return [*said, f"video: {path} ({path.stat().st_size / 1e6:.1f} MB)"]
    store.owed(stem.with_name(f"{stem.name}.mp4"))
    return said


def _frames(figure: Figure, draw: Draw, numbers: np.ndarray, name: str) -> Iterator[np.ndarray]:
    canvas = cast(FigureCanvasAgg, figure.canvas)
    for number in tqdm(numbers, desc=name, unit="frame", leave=False):
        draw(int(number))
        yield np.asarray(canvas.buffer_rgba())[..., :3]


def _mp4(figure: Figure, draw: Draw, frames: int, name: str, path: Path) -> None:
    import imageio_ffmpeg  # where it is missing, a GIF is written

    width, height = (int(side) for side in figure.canvas.get_width_height())
    bits = 8 * 0.9 * LARGEST / (frames / RATE)
    writer = imageio_ffmpeg.write_frames(
        str(path.absolute()),  # ffmpeg takes a:b for a protocol, and -a for an option
        (width, height),
        fps=RATE,
        codec="libx264",
        quality=None,
        macro_block_size=2,
        output_params=f"-preset veryfast -crf 20 -maxrate {bits:.0f} -bufsize {bits:.0f} -movflags +faststart".split(),
    )
    with warnings.catch_warnings():
        # JAX warns of any fork, since a forked child could wait for its threads for ever; this one becomes ffmpeg.
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        writer.send(None)
    try:
        for picture in _frames(figure, draw, np.arange(frames), name):
            writer.send(np.ascontiguousarray(picture))
    finally:
        writer.close()


def _gif(figure: Figure, draw: Draw, frames: int, name: str, path: Path) -> None:
    """Write every third frame at half the size, or fewer frames until the file is small enough."""
    every = 3
    while True:
        numbers = np.unique(np.append(np.arange(0, frames, every), frames - 1))
        pictures = [
            Image.fromarray(picture).reduce(2).quantize(48, dither=Image.Dither.NONE)
            for picture in _frames(figure, draw, numbers, name)
        ]
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=round(1000 * every / RATE), loop=0, optimize=True
        )
        if path.stat().st_size <= LARGEST or len(numbers) < 10:
            return
        every *= 2
