"""SRGAN: the super-resolver trained with perceptual and adversarial loss beside the content loss.

After Ledig et al. (arXiv:1609.04802), as in the AtomVision paper. The generator may start from a trained
super-resolver, as the original starts from SRResNet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from pydantic import Field

from atomvision_ml.models.checkpoint import Checkpoint, load_checkpoint
from atomvision_ml.models.super_resolution.features import Features, segmenter_features, vgg19_features
from atomvision_ml.models.super_resolution.networks import build_discriminator
from atomvision_ml.models.super_resolution.resolver import SuperResolverParameters
from atomvision_ml.models.super_resolution.training import Pairs, ResolverLearner, content_loss
from atomvision_ml.models.training import Opponent, Progress, seeded
from atomvision_ml.models.training_run import OpenBlob, TrainingData, train_checkpoint

if TYPE_CHECKING:
    import torch


class SrganParameters(SuperResolverParameters):
    """The super-resolver's, and those of the further losses; flat and frozen."""

    epochs: int = Field(default=3, ge=1, description="Most epochs.")
    crops_per_epoch: int = Field(default=96, ge=1, description="Training crops in each epoch.")
    learning_rate: float = Field(default=5e-4, gt=0, description="Highest learning rate (AdamW, cosine to zero).")
    content_weight: float = Field(default=1.0, ge=0, description="Weight of the content loss.")
    perceptual_weight: float = Field(default=1.0, ge=0, description="Weight of the distance of features.")
    adversarial_weight: float = Field(default=0.1, ge=0, description="Weight of deceiving the discriminator.")
    discriminator_width: int = Field(default=16, ge=4, description="Channels of the discriminator's first layer.")
    vgg19_weights: str = Field(
        default="", description="File of VGG19's weights for the perceptual loss; empty: the segmenter's encoder."
    )
    vgg19_layer: int = Field(default=18, ge=1, le=37, description="Layers of VGG19 that are used.")


def train_srgan(
    items: pl.DataFrame,
    open_blob: OpenBlob,
    parameters: SrganParameters | None = None,
    *,
    scratch: Path,
    start: Path | None = None,
    progress: Progress | None = None,
    device: str = "auto",
    data_versions: dict[str, str] | None = None,
) -> Checkpoint:
    """Train on the ``train`` split, stop by the ``val`` split; the ``test`` split is never read.

    Args:
        items, open_blob, parameters, scratch, progress, device, data_versions: as :func:`train_super_resolver`.
        start: checkpoint folder of a super-resolver of the same width and blocks, from which the generator starts; of
            another one nothing is taken.

    Raises:
        ValueError: the train or the val split is empty, or the device is unknown.
        CheckpointError: the start is damaged.
        FileNotFoundError: weights of VGG19 are named but not there.
        FloatingPointError: the loss is not finite.
    """
    chosen = parameters or SrganParameters()
    data = TrainingData(items, open_blob, data_versions or {})
    learner = SrganLearner(data, chosen)
    is_warm = start is not None and learner.start_from(start)
    features = f"layer {chosen.vgg19_layer} of VGG19" if chosen.vgg19_weights else "the released segmenter's encoder"
    return train_checkpoint(
        "srgan",
        learner,
        chosen,
        data,
        description=(
            f"Generator of {chosen.blocks} residual blocks of {chosen.width} channels, "
            f"{'started from a super_resolver and ' if is_warm else ''}trained with content, perceptual (features of "
            f"{features}) and adversarial loss."
        ),
        scratch=scratch,
        progress=progress,
        device=device,
    )


class SrganLearner(ResolverLearner):
    """A :class:`ResolverLearner` with an opponent; a :class:`atomvision_ml.models.training.AdversarialLearner`."""

    parameters: SrganParameters

    def __init__(self, data: TrainingData, parameters: SrganParameters) -> None:
        super().__init__(data, parameters)
        with seeded(parameters.seed, "discriminator"):
            self._discriminator = build_discriminator(parameters.discriminator_width)
        self.opponents = {"discriminator": Opponent(self._discriminator, self._discriminator_loss, 4.0)}
        self._features = _features(parameters) if parameters.perceptual_weight > 0 else None
        self._generated: torch.Tensor

    def start_from(self, folder: Path) -> bool:
        """Take the weights of a checkpoint whose generator has the same form; False if it has another one."""
        checkpoint = load_checkpoint(folder)
        form = ("width", "blocks")
        if any(checkpoint.parameters.get(name) != getattr(self.parameters, name) for name in form):
            return False
        self.network.load_state_dict(checkpoint.weights())
        return True

    def loss(self, batch: Pairs, device: torch.device) -> torch.Tensor:
        """Content, perceptual and adversarial loss, weighted."""
        import torch
        from torch.nn.functional import softplus

        chosen = self.parameters
        channels = torch.from_numpy(batch.channels).to(device).contiguous(memory_format=torch.channels_last)
        answer = self.network(channels).float()
        linear, units, truth = (torch.from_numpy(part).to(device) for part in (batch.linear, batch.units, batch.truth))
        generated = linear + units * answer
        self._generated = generated.detach()
        loss = chosen.content_weight * content_loss(answer, batch, device)
        loss = loss + chosen.adversarial_weight * softplus(-self._discriminator(generated)).mean()
        if self._features is not None:
            loss = loss + chosen.perceptual_weight * self._distance(generated, truth, batch.fine_pixel_angstrom)
        return loss

    def _discriminator_loss(self, batch: Pairs, device: torch.device) -> torch.Tensor:
        """Binary cross-entropy of telling generated images from true ones."""
        import torch
        from torch.nn.functional import softplus

        truth = torch.from_numpy(batch.truth).to(device)
        return softplus(-self._discriminator(truth)).mean() + softplus(self._discriminator(self._generated)).mean()

    def _distance(self, generated: torch.Tensor, truth: torch.Tensor, pixel_size_angstrom: float) -> torch.Tensor:
        """Mean absolute difference of features, as a share of their mean size.

        Both are shifted so that the true image is zero where it is darkest, as the segmenter wants it.
        """
        assert self._features is not None
        floor = truth.amin(dim=(1, 2, 3), keepdim=True)
        wanted = self._features(truth - floor, pixel_size_angstrom).float()
        found = self._features(generated - floor, pixel_size_angstrom).float()
        return (found - wanted).abs().mean() / wanted.abs().mean().clamp_min(1e-6)


def _features(parameters: SrganParameters) -> Features:
    if parameters.vgg19_weights:
        return vgg19_features(parameters.vgg19_weights, parameters.vgg19_layer)
    return segmenter_features()
