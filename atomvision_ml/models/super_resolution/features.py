"""Features for the perceptual loss: of the released segmenter's encoder, or of VGG19 where its weights are at hand.

The paper compares images by features of VGG19, whose weights are a download of 550 MB. The substitute is the encoder of
the package's released segmenter, a ResNet-18 stem and first stage trained here to tell atoms from background: its
features know what an atom looks like, and travel with the package.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Features = Callable[["torch.Tensor", float], "torch.Tensor"]
"""From images (n, 1, y, x), standardised, and their pixel size in Å to features (n, c, y', x')."""


def segmenter_features() -> Features:
    """The deepest features of the encoder of the released segmenter, frozen; finer images are averaged to its grid."""
    import torch

    from atomvision_ml.models.checkpoint import released_checkpoint
    from atomvision_ml.models.segmenter import load_segmenter

    loaded = load_segmenter(released_checkpoint("segmenter"))
    network = loaded.network.requires_grad_(False)
    working = loaded.parameters.working_pixel_size_angstrom
    kept: list[torch.Tensor] = []
    network.unet.encoder.register_forward_hook(lambda _module, _inputs, output: kept.append(output[-1]))  # type: ignore[union-attr, operator]

    def features(images: torch.Tensor, pixel_size_angstrom: float) -> torch.Tensor:
        network.to(images.device)
        ratio = round(working / pixel_size_angstrom)
        small = torch.nn.functional.avg_pool2d(images, ratio) if ratio > 1 else images
        kept.clear()
        network(small)
        return kept.pop()

    return features


def vgg19_features(weights: str | Path, layer: int) -> Features:
    """The first layers of VGG19, frozen.

    Args:
        weights: a state dictionary as torchvision keeps it (``vgg19-dcbb9e9d.pth``).
        layer: how many of its layers; 18 as in the paper's code.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: the file holds other weights.
    """
    from atomvision_ml.models._torchvision import ensure_torchvision

    ensure_torchvision()
    import torch
    from torchvision.models import vgg19

    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no weights of VGG19 at {path}; leave vgg19_weights empty for the substitute")
    whole = vgg19()
    whole.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    network = whole.features[:layer].eval().requires_grad_(False)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    spread = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def features(images: torch.Tensor, pixel_size_angstrom: float) -> torch.Tensor:
        network.to(images.device)
        # Standardised crystals range from about −1 to 4.
        grey = ((images + 1) / 5).clamp(0, 1)
        return network((grey - mean.to(images.device)) / spread.to(images.device))

    return features
