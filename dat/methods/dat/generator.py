"""The adversarial amplitude generator (AAG): latent code and logits -> amplitudes of an image's Fourier spectrum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dat_engine.errors import UserError


class AmplitudeGenerator(nn.Module):
    """MLP ``G(z, logits)`` whose sigmoid output is an amplitude in [0, amplitude_scale], in plain FFT order (DC first).

    Always in train mode: its BatchNorm normalises by the batch it sees. Source: Li et al., NeurIPS 2024, section 3.2.

    Args:
        num_classes: size K of the logits that condition it.
        image_shape: (C, H, W) of the images whose amplitudes it makes.
        latent_dim: size of the latent code z.
        amplitude_scale: None for the published range [0, 1], or [C, H, W], the factor of each frequency.
        coarse_size: None for the published form, one output per frequency; S for large images: the network predicts an
            S x S amplitude, which is interpolated linearly over frequencies (its DC is the image's DC). At 224 x 224 the
            published form's last layer alone would hold 154 million weights, with S = 32 it holds 3 million.
    """

    amplitude_scale: Tensor | None
    rows: Tensor | None
    columns: Tensor | None

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        *,
        latent_dim: int = 100,
        amplitude_scale: Tensor | None = None,
        coarse_size: int | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = image_shape
        channels, height, width = image_shape
        if coarse_size is not None and not 2 <= coarse_size <= min(height, width):
            raise UserError(f"coarse_size must lie in 2..{min(height, width)} for {image_shape}; got {coarse_size}")
        self.output_shape = image_shape if coarse_size is None else (channels, coarse_size, coarse_size)
        outputs = self.output_shape[0] * self.output_shape[1] * self.output_shape[2]
        layers: list[nn.Module] = [nn.Linear(latent_dim + num_classes, 128), nn.LeakyReLU(0.2)]
        for size, wider in ((128, 256), (256, 512), (512, 1024)):
            layers += [nn.Linear(size, wider), nn.BatchNorm1d(wider, eps=0.8), nn.LeakyReLU(0.2)]
        layers += [nn.Linear(1024, outputs), nn.Sigmoid()]
        self.model = nn.Sequential(*layers)
        for layer in self.model:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        if amplitude_scale is not None and tuple(amplitude_scale.shape) != image_shape:
            raise ValueError(f"amplitude_scale must have the shape {image_shape}; got {tuple(amplitude_scale.shape)}")
        self.register_buffer("amplitude_scale", amplitude_scale)
        rows = columns = None
        if coarse_size is not None:
            rows, columns = frequency_interpolation(height, coarse_size), frequency_interpolation(width, coarse_size)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, latent: Tensor, logits: Tensor) -> Tensor:
        """latent [B, latent_dim], logits [B, K] -> amplitude [B, C, H, W], non-negative, index (0, 0) = DC."""
        amplitude = self.model(torch.cat([latent, logits], dim=1)).unflatten(1, self.output_shape)
        if self.rows is not None and self.columns is not None:
            amplitude = self.rows @ amplitude @ self.columns.T
        return amplitude if self.amplitude_scale is None else amplitude * self.amplitude_scale

    def load_reference_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a generator checkpoint of the DAT authors' code (``model.0.weight`` …).

        Its output is in the centred (fft-shifted) layout; the rows of the last layer are permuted into FFT order.

        Raises:
            UserError: names or shapes that do not fit; the generator is left as it was.
        """
        state = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
        own = {name: tensor for name, tensor in self.state_dict().items() if name != "amplitude_scale"}
        wrong = sorted(set(own) ^ set(state)) or sorted(name for name in own if own[name].shape != state[name].shape)
        if wrong:
            raise UserError(
                f"this checkpoint does not fit a generator of {self.image_shape} amplitudes: "
                f"{', '.join(wrong[:3])} missing, unknown or of another shape"
            )
        last = max(int(name.split(".")[1]) for name in state)
        for leaf in ("weight", "bias"):
            rows = state[f"model.{last}.{leaf}"]
            centred = rows.reshape(*self.output_shape, *rows.shape[1:])
            state[f"model.{last}.{leaf}"] = torch.fft.ifftshift(centred, dim=(1, 2)).reshape(rows.shape)
        self.load_state_dict(state, strict=False)


def frequency_interpolation(size: int, coarse_size: int) -> Tensor:
    """Matrix [size, coarse_size], float32, that interpolates a spectrum in FFT order linearly onto a finer grid.

    Row k is frequency k / size cycles per pixel, which lies between two neighbours of the coarse grid, periodically; each
    row sums to 1 and DC stays DC.
    """
    position = torch.fft.fftfreq(size, dtype=torch.float64) * coarse_size
    below = position.floor()
    share = position - below
    matrix = torch.zeros(size, coarse_size, dtype=torch.float64)
    row = torch.arange(size)
    matrix.index_put_((row, below.long() % coarse_size), 1 - share, accumulate=True)
    matrix.index_put_((row, (below.long() + 1) % coarse_size), share, accumulate=True)
    return matrix.float()
