"""The networks of super-resolution: generator and discriminator.

After SRResNet and SRGAN (Ledig et al., arXiv:1609.04802), with the changes of EDSR (Lim et al., arXiv:1707.02921): no
batch normalisation, which would forget the scale of the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atomvision_ml.images.reduction import FACTOR

if TYPE_CHECKING:
    import torch

INPUT_CHANNELS = FACTOR**2 + 1 + 4
"""The linear estimate on its 4 × 4 sub-pixels, the image itself, and four numbers that say what is known of it."""
PIXEL_CHANNEL = -1
"""The number that says how large the pixels are; positive where they are too large for the probe."""


def build_generator(width: int, blocks: int) -> torch.nn.Module:
    """Residual blocks on the coarse grid, then sub-pixel convolution; one branch for each kind of image.

    Pixels below 0.6 Å resolve the probe, and what is to be done is to take the noise away; larger ones alias, and atoms
    must be guessed between the pixels. One branch for both learned the first task far slower.

    Args:
        width: channels.
        blocks: residual blocks of two 3 × 3 convolutions.

    Returns:
        From float32 (n, INPUT_CHANNELS, y, x), all of one pixel size, to (n, 1, 4y, 4x). The last layer starts at zero:
        an untrained network adds nothing to the linear estimate.
    """
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(width, width, 3, padding=1)
            self.second = nn.Conv2d(width, width, 3, padding=1)
            nn.init.zeros_(self.second.weight)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values + self.second(nn.functional.relu(self.first(values)))

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(INPUT_CHANNELS, width, 3, padding=1)
            self.body = nn.Sequential(*(Block() for _ in range(blocks)))
            self.tail = nn.Conv2d(width, FACTOR**2, 3, padding=1, bias=False)
            nn.init.zeros_(self.tail.weight)
            self.shuffle = nn.PixelShuffle(FACTOR)

        def forward(self, channels: torch.Tensor) -> torch.Tensor:
            return self.shuffle(self.tail(nn.functional.relu(self.body(self.head(channels)))))

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resolved, self.aliased = Branch(), Branch()

        def forward(self, channels: torch.Tensor) -> torch.Tensor:
            is_aliased = bool(channels[0, PIXEL_CHANNEL, 0, 0] > 0)
            return (self.aliased if is_aliased else self.resolved)(channels)

    return Generator()


def build_discriminator(width: int) -> torch.nn.Module:
    """Strided convolutions from a fine image (n, 1, y, x) to log-odds (n, 1, y/16, x/16) of being a true one.

    One answer per patch rather than one per image (PatchGAN, Isola et al., arXiv:1611.07004): a crystal is the same
    everywhere.
    """
    from torch import nn

    layers: list[nn.Module] = []
    channels = 1
    for level in range(4):
        wider = width * 2 ** min(level, 2)
        layers += [nn.Conv2d(channels, wider, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = wider
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))
