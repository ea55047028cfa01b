"""The network of both autoencoders: principal components with a learned correction.

Belongs here: torch modules; imported only where a network is built. An image x has the latent z = W(x + before(x)), its
reconstruction is μ + Wᵀz + after(z). W and the mean image μ are fitted principal components. What is learned is
``before``, for the short latent only, since the whole one misses little, and ``after``: by convolutions on images, or
by dense layers on coefficients.

Both are multiplied by the error that the linear code is expected to make: the variance that the components leave out,
and the noise that they let through. Noise is seen in the components of least variance; where there is any, coefficients
are shrunk as by a Wiener filter. So an untrained network is the linear code. How far a trained one is believed, a gain
for each expected error, is measured on fields that it has not learned: where the linear code leaves nothing to gain, it
is not believed.
"""

from __future__ import annotations

import torch
from torch import nn

from atomvision_ml.models.components import Components

_SEES_NOISE, _SEES_DETAIL = 32, 8  # these shares of the components, those of least variance, tell noise and detail
_SHELL = 32  # components of about equal variance lie within this share before and behind
_OWN_DETAIL = 10  # fine images hold more in those components than the average one, so many times as much
_NOISE = 15  # so many times as much is noise: of 300 noiseless fields none has more, at 1e4 e/Å² the least has 32
_LOWEST, _KNOTS, _KNOTS_PER_DECADE = -4.0, 9, 2  # of the gain, over the logarithm of the expected error
_DOUBT = 1e-2  # weight of a gain of one; of no account where a field visits a knot
_LEAST_ERROR = 1e-6
_FOLD, _BLOCKS = 4, 4


class Autoencoder(nn.Module):
    """Encoder and decoder about the principal components.

    Args:
        size_px: edge of the images.
        latent_size: components, numbers in the whole latent.
        width: channels or hidden neurons.
        is_convolutional: corrections on images instead of coefficients; the components then stay as they were fitted.
    """

    components: torch.Tensor
    middle: torch.Tensor
    variances: torch.Tensor
    left_over: torch.Tensor
    gains: torch.Tensor

    def __init__(self, size_px: int, latent_size: int, width: int, *, is_convolutional: bool) -> None:
        super().__init__()
        self.size_px, self.latent_size, self.is_convolutional = size_px, latent_size, is_convolutional
        self.register_buffer("components", torch.zeros(latent_size, size_px**2))
        self.register_buffer("middle", torch.zeros(size_px**2))
        self.register_buffer("variances", torch.ones(latent_size))
        self.register_buffer("left_over", torch.tensor(1.0))
        self.register_buffer("gains", torch.ones(_KNOTS))
        self.before: nn.Module
        self.after: nn.Module
        if is_convolutional:
            self.before, self.after = _ImageCorrection(width), _ImageCorrection(width)
        else:
            self.before = _DenseCorrection(latent_size, width, latent_size)
            self.after = _DenseCorrection(latent_size, width, size_px**2)

    def begin_with(self, fitted: Components) -> None:
        """Take over fitted components."""
        with torch.no_grad():
            self.components.copy_(torch.from_numpy(fitted.components))
            self.middle.copy_(torch.from_numpy(fitted.middle))
            self.variances.copy_(torch.from_numpy(fitted.variances))
            self.left_over.fill_(fitted.left_over)

    def forward(self, images: torch.Tensor, kept: int | None = None) -> torch.Tensor:
        """Reconstruction (n, 1, y, x) of normalised images (n, 1, y, x) from ``kept`` numbers."""
        return self.decode(self.encode(images, kept or self.latent_size))

    def encode(self, images: torch.Tensor, kept: int) -> torch.Tensor:
        """Latent (n, kept)."""
        pixels = images.flatten(1) - self.middle
        if kept == self.latent_size:
            return pixels @ self.components.T
        error = self.truncation_error(kept).expand(len(images))
        if self.is_convolutional:
            return (pixels + self.before(images, error).flatten(1) * error[:, None]) @ self.components[:kept].T
        plain = pixels @ self.components.T
        return (plain + self.before(plain / self._scale(), error) * self._amplitude(error))[:, :kept]

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Reconstruction (n, 1, y, x) of latents (n, kept); gains are for the whole latent in use."""
        linear, correction, error = self._parts(latent)
        if self.training or latent.shape[1] < self.latent_size:
            return linear + correction
        return linear + (_hats(error) @ self.gains)[:, None, None, None] * correction

    @torch.no_grad()
    def set_gains(self, images: torch.Tensor, wanted: torch.Tensor) -> None:
        """Set the gains to those of least error, relative to the linear code's, on fields that were not learned.

        Args:
            images: (n, 1, y, x) normalised fields.
            wanted: (n, 1, y, x) the same without noise, on the CPU.
        """
        from scipy.optimize import lsq_linear

        linear, correction, error = (part.float().cpu() for part in self._parts(self.encode(images, self.latent_size)))
        rest = wanted - linear
        # Of |rest − g · correction|² / |rest|² only the part along the correction depends on g.
        length = (correction**2).sum(dim=(1, 2, 3)).sqrt().clamp_min(1e-12)
        size = (rest**2).sum(dim=(1, 2, 3)).sqrt().clamp_min(1e-10)
        design = torch.cat([_DOUBT * torch.eye(_KNOTS), _hats(error) * (length / size)[:, None]])
        target = torch.cat([_DOUBT * torch.ones(_KNOTS), (correction * rest).sum(dim=(1, 2, 3)) / (length * size)])
        found = lsq_linear(design.double().numpy(), target.double().numpy(), (0, 1))
        self.gains.copy_(torch.from_numpy(found.x))

    def _parts(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The linear reconstruction and the correction (n, 1, y, x), and the expected error (n,)."""
        kept, noise = latent.shape[1], self.noise(latent)
        share = self._share(latent, noise)
        passed = (share * noise[:, None]).sum(dim=1) / self.size_px**2
        error = (self._left_out(latent, noise) + passed).sqrt()
        linear = (self.middle + (latent * share) @ self.components[:kept]).unflatten(1, (1, self.size_px, -1))
        if self.is_convolutional:
            return linear, self.after(linear, error) * error[:, None, None, None], error
        whole = nn.functional.pad(latent * share, (0, self.latent_size - kept))
        correction = self.after(whole / self._scale(), error) * error[:, None]
        return linear, correction.unflatten(1, linear.shape[1:]), error

    def truncation_error(self, kept: int) -> torch.Tensor:
        """Root of the mean square per pixel that the components beyond ``kept`` hold."""
        return (self.left_over + self.variances[kept:].sum() / self.size_px**2 + _LEAST_ERROR**2).sqrt()

    def noise(self, latent: torch.Tensor) -> torch.Tensor:
        """Variance of the noise in each coefficient (n,); zero where it cannot be told from a short latent."""
        if latent.shape[1] < self.latent_size:
            return latent.new_zeros(len(latent))
        start = self.latent_size - max(1, self.latent_size // _SEES_NOISE)
        surplus = (latent[:, start:] ** 2).mean(dim=1) - _OWN_DETAIL * self.variances[start:].mean()
        return torch.where(surplus > (_NOISE - _OWN_DETAIL) * self.variances[start:].mean(), surplus, 0.0)

    def _share(self, latent: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Signal in each coefficient (n, kept): of the mean square of its neighbours, what exceeds the noise."""
        reach = latent.shape[1] // _SHELL
        around = nn.functional.avg_pool1d((latent**2)[:, None], 2 * reach + 1, 1, reach, count_include_pad=False)[:, 0]
        signal = (around - noise[:, None]).clamp_min(0)
        return torch.where(noise[:, None] > 0, signal / (signal + noise[:, None]).clamp_min(1e-20), 1.0)

    def _left_out(self, latent: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Expected mean square per pixel (n,) beyond the latent; by the last components of the whole one."""
        expected = self.truncation_error(latent.shape[1]) ** 2
        if latent.shape[1] < self.latent_size:
            return expected.expand(len(latent))
        start = self.latent_size - max(1, self.latent_size // _SEES_DETAIL)
        detail = ((latent[:, start:] ** 2).mean(dim=1) - noise).clamp_min(0) / self.variances[start:].mean()
        return expected * detail.clamp_max(_OWN_DETAIL) + _LEAST_ERROR**2

    def _scale(self) -> torch.Tensor:
        return (self.variances + 0.01 * self.variances.mean()).sqrt()

    def _amplitude(self, error: torch.Tensor) -> torch.Tensor:
        """How far a coefficient may be moved, (n, latent): the expected error, but not beyond its own spread."""
        return torch.minimum(error[:, None] * 4, self.variances.sqrt())


def _hats(error: torch.Tensor) -> torch.Tensor:
    """Weights (n, knots) of linear interpolation over the logarithm of the expected error."""
    place = ((error.log10() - _LOWEST) * _KNOTS_PER_DECADE).clamp(0, _KNOTS - 1)
    knots = torch.arange(_KNOTS, device=error.device)
    return (1 - (place[:, None] - knots).abs()).clamp_min(0)


class _ImageCorrection(nn.Module):
    """Residual convolutions on the image, folded into channels, and the logarithm of its expected error.

    Zero before training.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fold, self.unfold = nn.PixelUnshuffle(_FOLD), nn.PixelShuffle(_FOLD)
        self.first = nn.Conv2d(_FOLD**2 + 1, width, 3, padding=1)
        self.inner = nn.ModuleList([_block(width) for _ in range(_BLOCKS)])
        self.out = nn.Conv2d(width, _FOLD**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, image: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        folded = self.fold(image)
        level = error.log10()[:, None, None, None].expand(-1, 1, *folded.shape[2:])
        inner = self.first(torch.cat([folded, level], dim=1))
        for layer in self.inner:
            inner = inner + layer(inner)
        return self.unfold(self.out(inner))


class _DenseCorrection(nn.Module):
    """Dense layers on the coefficients and the logarithm of their expected error; zero before training."""

    def __init__(self, latent_size: int, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(latent_size + 1, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.out = nn.Linear(width, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, coefficients: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(torch.cat([coefficients, error.log10()[:, None]], dim=1)))


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
    )
