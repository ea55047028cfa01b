"""Pretrained backbones: a training may start from weights that a user has; none is ever needed or downloaded.

Belongs here: which file is meant, what of it fits, and the first layer for another number of channels. A file is stated
as ``PATH#sha256=DIGEST``: so a model's parameters, its identity and its card say which weights it started from, and a
checkpoint is read without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, model_serializer

from atomvision_ml.storage.blobs import file_sha256

if TYPE_CHECKING:
    import torch

CACHED = "cached"
"""In place of a file: the one that torch hub or segmentation-models-pytorch has kept for this architecture."""

DESCRIPTION = (
    "File of weights (safetensors or pth) that the backbone starts from, or `cached` for the one that torch hub or "
    "segmentation-models-pytorch has kept; null: random weights."
)

_DIGEST = "#sha256="
_RGB = 3
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


class WithBackbone(BaseModel):
    """Parameters with a ``backbone_weights`` that is left out of what is stored where it is not used."""

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        said = dump(self)
        if said.get("backbone_weights") is None:
            said.pop("backbone_weights", None)
        return said


def stated_weights(given: str | None, architecture: str | None) -> str | None:
    """``PATH#sha256=DIGEST`` of what a user names; what is stated so already is not looked for.

    Args:
        given: a file, ``cached``, or None.
        architecture: name of the backbone in torchvision or segmentation-models-pytorch; None: it has none.

    Raises:
        ValueError: the file is missing, none is cached, or this architecture has no backbone.
    """
    if not given or _DIGEST in given:
        return given or None
    if architecture is None:
        raise ValueError("this architecture has no backbone that other weights would fit; leave backbone_weights empty")
    path = _cached(architecture) if given == CACHED else Path(given).expanduser()
    if path is None:
        raise ValueError(f"no weights of {architecture} are cached; name a file, or leave backbone_weights empty")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file of weights")
    return f"{path}{_DIGEST}{file_sha256(path)}"


def start_from(backbone: torch.nn.Module, stated: str | None) -> None:
    """Give a backbone the weights of a file; further ones in the file are not used.

    The first layer of a network for colours is summed over them and divided among the backbone's channels, so that
    equal channels are seen as one grey image.

    Args:
        backbone: changed in place.
        stated: as :func:`stated_weights` returns; None changes nothing.

    Raises:
        ValueError: the file is missing, unreadable, another one than stated, or of another architecture.
    """
    if stated is None:
        return
    name, _, digest = stated.rpartition(_DIGEST)
    path = Path(name)
    if not path.is_file() or file_sha256(path) != digest:
        raise ValueError(f"{path}: the weights of SHA-256 {digest[:12]} are no longer there")
    stored = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in _read(path).items()}
    own = backbone.state_dict()
    taken = {key: _fitting(stored[key], value) for key, value in own.items() if key in stored}
    unfit = [key for key in own if taken.get(key) is None and not key.endswith("num_batches_tracked")]
    if unfit:
        raise ValueError(f"{path}: not of this architecture: {len(unfit)} of {len(own)} tensors, as {unfit[0]}")
    backbone.load_state_dict({key: value for key, value in taken.items() if value is not None}, strict=False)


def sentence(stated: str | None) -> str:
    """For a card: what the backbone started from; empty where it started at random."""
    if stated is None:
        return ""
    path, _, digest = stated.rpartition(_DIGEST)
    return f" The backbone started from {Path(path).name} (SHA-256 {digest})."


def _fitting(stored: Any, own: torch.Tensor) -> torch.Tensor | None:
    """The stored tensor in the shape of the own one; None if it does not fit."""
    if stored.shape == own.shape:
        return stored
    is_first = stored.ndim == own.ndim == 4 and stored.shape[1] == _RGB
    if not is_first or stored.shape[0] != own.shape[0] or stored.shape[2:] != own.shape[2:]:
        return None
    channels = own.shape[1]
    return stored.sum(dim=1, keepdim=True).repeat(1, channels, 1, 1) / channels


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    """Tensors by name, without running anything that is in the file."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: not a file of weights: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise ValueError(f"{path}: not a file of weights: tensors by name are wanted")
    return stored


def _cached(architecture: str) -> Path | None:
    import torch

    found = sorted((Path(torch.hub.get_dir()) / "checkpoints").glob(f"{architecture}-*.pth"))
    if found:
        return found[0]
    from huggingface_hub import try_to_load_from_cache

    kept = try_to_load_from_cache(f"smp-hub/{architecture}.imagenet", "model.safetensors")
    return Path(kept) if isinstance(kept, str) else None
