"""Importing torchvision beside a torch that it was not built for.

Belongs here: nothing else. A torchvision wheel built for CUDA cannot load its compiled operators beside a CPU build
of torch; its Python part then stops at registering shapes for operators that do not exist. The networks used here
need none of these operators, so declaring their signatures is enough.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

_DETECTION_OPERATORS = ("nms", "qnms")
_kept: list[Any] = []  # the declarations live as long as this list


def ensure_torchvision() -> str:
    """Make ``import torchvision`` work.

    Returns:
        ``"native"`` if torchvision loads by itself (nothing is changed), ``"declared"`` if the signatures of its
        detection operators had to be declared first. Calling such an operator still raises RuntimeError.

    Raises:
        ImportError, RuntimeError: torchvision is missing or fails for another reason.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return "declared" if _kept else "native"
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _kept:
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for operator in _DETECTION_OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
    import_module("torchvision")
    return "declared"
