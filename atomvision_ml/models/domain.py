"""Is an image like those that the models were made for? Statistics of an image against their range in training.

Belongs here: the statistics, the ranges and the warnings. The ranges come from scenes as the networks are trained on
(:mod:`atomvision_ml.images.scenes`): embedded prototypes at random rotations, shifts, pixel sizes from 0.1 to 0.25 Å
and doses from 50 to 1e5 e/Å², some noiseless. They are kept in ``released/domain.json``, which

    python -m atomvision_ml.models.domain

makes again. A statistic outside its range does not say that an answer is wrong, but that nothing is known of how often
answers to such images are right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomvision_ml.images.atoms import laplacian_of_gaussian_atoms
from atomvision_ml.images.preprocess import detrend, smooth_part
from atomvision_ml.images.stem import StemParameters
from atomvision_ml.models.registry import model_spec

Floats = NDArray[np.float64]

RANGES = Path(__file__).parent / "released" / "domain.json"

ATOMIC_PIXELS_ANGSTROM = (0.02, 0.6)
"""Sizes of pixels in which atoms can be seen, and which models can take without making the image huge."""

STEM_PIXELS_ANGSTROM = (StemParameters().minimum_pixel_size_angstrom, StemParameters().maximum_pixel_size_angstrom)
"""Smallest and largest pixel of ``images/stem`` and of the scenes behind the ranges."""

SMALLEST_PX = 16
_ROUNDING = 0.01
_LARGEST_PX = 1024
_SMOOTH_ANGSTROM = 0.4
_CLEAN_LOG10 = 7.0

MEANINGS = {
    "log10_signal_to_noise": "signal over noise, both as variances, the noise averaged over 1 Å² (log10)",
    "finest_detail_angstrom": "finest detail above the noise, Å: a wrong pixel size, or another probe",
    "dominant_period_angstrom": "period with the most power, Å: a wrong pixel size, or no atomic resolution",
    "uneven_share": "share of the variance in smooth background: contamination, vignetting, an edge of the specimen",
    "skewness": "skewness of the smoothed brightness: bright-field contrast, saturation, or something on the crystal",
    "columns_per_a2": "bright spots per Å²: a wrong pixel size, overlapping layers, or no atomic resolution",
    "peak_share": "share of the power in the strongest 2 % of reflections: no crystal, or several",
}
"""The statistics, and what may be the matter where one is out of range."""


@dataclass(frozen=True)
class Domain:
    """How an image compares with the training images.

    Attributes:
        statistics: by name, as in :data:`MEANINGS`.
        outside: names of those outside their range, and ``pixel_size_angstrom`` where a model does not know it.
        typicality: share of the training images that are at least as unusual; 0 for an image more unusual than all.
        warnings: one sentence for each name in ``outside``, or why nothing could be compared.
    """

    statistics: dict[str, float]
    outside: tuple[str, ...]
    typicality: float
    warnings: tuple[str, ...]


def check_domain(
    image: ArrayLike,
    pixel_size_angstrom: float,
    ranges: Mapping[str, Any] | None = None,
    *,
    model: str | None = None,
) -> Domain:
    """Compare an image with the training images.

    Args:
        image: [y, x], finite, any unit.
        pixel_size_angstrom: edge of a pixel in Å.
        ranges: as :func:`training_ranges` returns; None for those that travel with the package.
        model: registered name, or None; a pixel size that it does not know is a warning, too.

    Raises:
        ValueError: the image is not [y, x] or not finite, or the pixel size is not positive.
        UnknownModelError: no model of that name is registered.
    """
    found = _compared(image, pixel_size_angstrom, ranges)
    strange = None if model is None else pixel_size_warning(model, pixel_size_angstrom)
    if strange is None:
        return found
    return replace(found, outside=(*found.outside, "pixel_size_angstrom"), warnings=(*found.warnings, strange))


def pixel_size_warning(model: str, pixel_size_angstrom: float) -> str | None:
    """A sentence where a pixel size is not among those that a model was trained or is made for, else None.

    Args:
        model: registered name.
        pixel_size_angstrom: edge of a pixel in Å; 1 % outside is taken for rounding.

    Raises:
        UnknownModelError: no model of that name is registered.
    """
    low, high = model_spec(model).pixel_sizes_angstrom()
    if (1 - _ROUNDING) * low <= pixel_size_angstrom <= (1 + _ROUNDING) * high:
        return None
    side = "below" if pixel_size_angstrom < low else "above"
    return (
        f"pixel_size_angstrom = {pixel_size_angstrom:.3g} lies {side} the range {low:.3g} to {high:.3g} that "
        f"{model} was trained or is made for"
    )


def _compared(image: ArrayLike, pixel_size_angstrom: float, ranges: Mapping[str, Any] | None) -> Domain:
    known = _released_ranges() if ranges is None else ranges
    values = np.asarray(image, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"an image is [y, x] of finite numbers; got shape {values.shape}")
    if not 0 < pixel_size_angstrom < np.inf:
        raise ValueError(f"pixel_size_angstrom must be positive, not {pixel_size_angstrom}")
    if min(values.shape) < SMALLEST_PX:
        text = f"the image has only {values.shape[1]} x {values.shape[0]} pixels: too few to compare it with anything"
        return Domain({}, (), 0.0, (text,))
    if np.ptp(values) == 0:
        return Domain({}, (), 0.0, ("the image is constant",))
    found = image_statistics(values, pixel_size_angstrom)
    outside = tuple(name for name, value in found.items() if not known[name]["low"] <= value <= known[name]["high"])
    unusual = _unusual(found, known)
    typicality = float(np.mean(np.asarray(known["unusual"]["quantiles"]) >= unusual))
    return Domain(found, outside, typicality, tuple(_sentence(name, found[name], known[name]) for name in outside))


def image_statistics(image: Floats, pixel_size_angstrom: float) -> dict[str, float]:
    """The statistics of an image by name; see :data:`MEANINGS`.

    Args:
        image: [y, x], finite, not constant, at least 16 pixels along each side; of a larger one than 1024 pixels the
            middle is used.
        pixel_size_angstrom: edge of a pixel in Å.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.stats import skew

    values, pixel = _middle(np.asarray(image, np.float64)), pixel_size_angstrom
    values = (values - values.mean()) / (values.std() or 1.0)
    flat = detrend(values)
    smooth = gaussian_filter(flat, _SMOOTH_ANGSTROM / pixel, mode="reflect")
    columns = laplacian_of_gaussian_atoms(flat, pixel, relative_threshold=0.25)
    height, width = values.shape
    return {
        **_spectral(flat, pixel),
        "uneven_share": float(smooth_part(values).var() / values.var()),
        "skewness": float(skew(smooth, axis=None)) if smooth.std() > 0 else 0.0,
        "columns_per_a2": len(columns) / (height * width * pixel**2),
    }


def _spectral(flat: Floats, pixel: float) -> dict[str, float]:
    """Noise, scales and sharpness of the power spectrum (Hann window); the noise is that of the highest frequencies."""
    window = np.hanning(flat.shape[0])[:, None] * np.hanning(flat.shape[1])
    power = np.abs(np.fft.rfft2(flat * window)) ** 2 / (window**2).sum()
    fy, fx = np.fft.fftfreq(flat.shape[0], pixel), np.fft.rfftfreq(flat.shape[1], pixel)
    radius = np.hypot(fy[:, None], fx)
    floor = float(np.median(power[radius > 0.85 * 0.5 / pixel])) / np.log(2)
    signal = np.clip(power - floor, 0, None)
    step = 1 / (min(flat.shape) * pixel)
    ring = np.minimum((radius / step).astype(int), min(flat.shape) // 2)
    count = np.maximum(np.bincount(ring.ravel()), 1)
    mean = np.bincount(ring.ravel(), signal.ravel()) / count
    seen = mean > max(floor, 1e-6 * float(mean.max()))
    share = np.where(seen, mean * count, 0.0)
    total = float(share.sum())
    if total <= 0:
        share = mean * count
        total = float(share.sum()) or 1.0
    finest = int(np.searchsorted(np.cumsum(share), 0.98 * total))
    strongest = np.sort((signal * seen[ring]).ravel())[::-1]
    kept = max(1, int(0.02 * (seen * count).sum()))
    noise = floor * pixel**2
    variance = float(signal[seen[ring]].sum() / power.size)
    ratio = np.log10(max(variance, 1e-12) / max(noise, 1e-30))
    return {
        "log10_signal_to_noise": float(min(ratio, _CLEAN_LOG10)),
        "finest_detail_angstrom": 1 / ((finest + 0.5) * step),
        "dominant_period_angstrom": 1 / ((int(np.argmax(share)) + 0.5) * step),
        "peak_share": float(strongest[:kept].sum() / max(float(strongest.sum()), 1e-30)),
    }


def training_ranges(statistics: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Ranges of statistics of training images.

    Returns:
        For each statistic ``low`` and ``high``, between which 99 % of the images lie, widened by a tenth on either
        side, and the quantiles at 5, 50 and 95 %; and under ``unusual`` the quantiles of how unusual an image is.

    Raises:
        ValueError: fewer than 20 images.
    """
    if len(statistics) < 20:
        raise ValueError(f"{len(statistics)} images are too few to tell a range")
    ranges: dict[str, Any] = {}
    for name in MEANINGS:
        values = np.array([one[name] for one in statistics])
        low, q05, middle, q95, high = np.quantile(values, (0.005, 0.05, 0.5, 0.95, 0.995))
        margin = 0.1 * (high - low)
        ranges[name] = {
            "low": round(float(low - margin), 5),
            "high": round(float(high + margin), 5),
            "q05": round(float(q05), 5),
            "median": round(float(middle), 5),
            "q95": round(float(q95), 5),
        }
    unusual = [_unusual(one, ranges) for one in statistics]
    quantiles = np.quantile(unusual, np.linspace(0, 1, 101))
    ranges["unusual"] = {"quantiles": [round(float(value), 4) for value in quantiles]}
    return ranges


def _unusual(statistics: Mapping[str, float], ranges: Mapping[str, Any]) -> float:
    """Largest distance of a statistic from its median, in units of that of the 5 % or 95 % quantile."""
    distances = []
    for name, value in statistics.items():
        known = ranges[name]
        side = known["q95"] if value > known["median"] else known["q05"]
        distances.append(abs(value - known["median"]) / max(abs(side - known["median"]), 1e-9))
    return float(max(distances))


def _sentence(name: str, value: float, known: Mapping[str, float]) -> str:
    side = "below" if value < known["low"] else "above"
    limits = f"{known['low']:.3g} to {known['high']:.3g}"
    return f"{name} = {value:.3g} lies {side} the training range {limits} ({MEANINGS[name]})"


def _middle(values: Floats) -> Floats:
    edges = [max(0, (edge - _LARGEST_PX) // 2) for edge in values.shape]
    return values[edges[0] : edges[0] + _LARGEST_PX, edges[1] : edges[1] + _LARGEST_PX]


@lru_cache(maxsize=1)
def _released_ranges() -> dict[str, Any]:
    return json.loads(RANGES.read_text(encoding="utf-8"))


def scene_statistics(count: int, seed: int = 0) -> list[dict[str, float]]:
    """Statistics of scenes of the embedded prototypes, drawn as for training.

    Args:
        count: scenes.
        seed: of everything random.
    """
    from atomvision_ml.images.scenes import SceneParameters, draw_scenes
    from atomvision_ml.images.stem import project
    from atomvision_ml.structures.prototypes import prototype_rows

    random = np.random.default_rng(seed)
    known = [
        project(
            row["numbers"], np.reshape(row["positions_angstrom"], (-1, 3)), np.reshape(row["cell_angstrom"], (3, 3))
        )
        for row in prototype_rows()
    ]
    found: list[dict[str, float]] = []
    while len(found) < count:
        some = [known[int(number)] for number in random.permutation(len(known))[: min(8, count - len(found))]]
        ranges = SceneParameters(
            size_px=int(random.integers(96, 257)),
            minimum_pixel_size_angstrom=STEM_PIXELS_ANGSTROM[0],
            maximum_pixel_size_angstrom=STEM_PIXELS_ANGSTROM[1],
            recast_fraction=0.3,
        )
        scenes = draw_scenes(some, ranges, random)
        found += [image_statistics(image, scenes.pixel_size_angstrom) for image in scenes.seen]
    return found


def _main(count: int = 1600) -> None:
    RANGES.write_text(json.dumps(training_ranges(scene_statistics(count)), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
