"""Embeddings of numbers and texts."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from jensen.core.shapes import check_count, checked
from jensen.nn.residual import zero


def check_labels(labels: Tensor, highest: int, *shapes: tuple[int, ...]) -> None:
    """Raise unless `labels` are integers in [0, highest] with one of the shapes.

    Raises:
        ValueError: for a dtype that is not an integer type, another shape, or a number outside [0, highest].
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"conditions must be integers, got {str(labels.dtype).removeprefix('torch.')}")
    if tuple(labels.shape) not in shapes:
        wanted = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"conditions must have the shape {wanted}, got {tuple(labels.shape)}")
    if labels.numel() and not (bool((labels >= 0).all()) and bool((labels <= highest).all())):
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(f"conditions must be from 0 to {highest}, which stands for none, got {low} to {high}")


class Fourier(nn.Module):
    r"""$[\cos(\omega_k c), \sin(\omega_k c)]_k$ with geometric frequencies: (B,) -> (B, channels).

    Args:
        channels: size of the embedding, even.
        lowest, highest: frequencies, for arguments c of order 1.
    """

    frequencies: Tensor

    def __init__(self, channels: int, lowest: float = 0.25, highest: float = 64.0):
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels must be even, got {channels}")
        steps = torch.linspace(math.log(lowest), math.log(highest), channels // 2)
        self.register_buffer("frequencies", steps.exp(), persistent=False)

    def forward(self, c: Float[Tensor, " b"]) -> Float[Tensor, "b channels"]:
        angles = c[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class TextEmbedding(nn.Module):
    """A learned vector per character plus one per position: (B, length) -> (B, length, channels).

    Index `alphabet` means "no character" and has its own vector.

    Raises:
        ValueError: for a size below 1; when called, unless there is one text per row, of this length, with indices from
            0 to `alphabet`.
    """

    def __init__(self, alphabet: int, length: int, channels: int):
        super().__init__()
        if min(alphabet, length, channels) < 1:
            raise ValueError(
                f"alphabet, length and channels must be at least 1, got {alphabet}, {length} and {channels}"
            )
        self.character = nn.Embedding(alphabet + 1, channels)
        self.place = nn.Parameter(torch.randn(length, channels) / math.sqrt(2))

    def forward(self, text: Shaped[Tensor, "..."], rows: int) -> Float[Tensor, "b length channels"]:
        check_labels(text, self.character.num_embeddings - 1, (rows, len(self.place)))
        return self.character(text.long()) + self.place


class TextContext(nn.Module):
    """Adds to each character a function of the 8 characters on either side: (B, length, channels), same shape.

    Two residual blocks of two convolutions over 5 characters; zero at initialisation.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.blocks = nn.ModuleList(self._block(channels) for _ in range(2))

    @staticmethod
    def _block(channels: int) -> nn.Sequential:
        enter, leave = (nn.Conv1d(channels, channels, 5, padding=2) for _ in range(2))
        zero(leave)
        return nn.Sequential(enter, nn.SiLU(), leave)

    def forward(self, text: Float[Tensor, "b length channels"]) -> Float[Tensor, "b length channels"]:
        h = text.transpose(1, 2)
        for block in self.blocks:
            h = h + block(h)
        return h.transpose(1, 2)


class RandomFourierFeatures(nn.Module):
    r"""Appends to each point x of a pack $\sin(w_k \cdot x), \cos(w_k \cdot x)$, $w_k \sim N(0, s^2 I)$ fixed.

    Layers on raw coordinates learn slow variation first; they learn late about modes much narrower than the gaps
    between them.

    Args:
        dims: coordinates of a point.
        features: number of frequencies w_k.
        frequency: s, in radians per unit of length.
        packing: number of points in a pack: (B, packing dims) -> (B, packing (dims + 2 features)).

    Source: Tancik et al. (2020), section 4.

    >>> RandomFourierFeatures(2, 8, 2.0, packing=3)(torch.zeros(5, 6)).shape
    torch.Size([5, 54])
    """

    frequencies: Tensor

    def __init__(self, dims: int, features: int, frequency: float, packing: int = 1):
        super().__init__()
        check_count(dims=dims, features=features, packing=packing)
        self.packing = packing
        self.register_buffer("frequencies", frequency * torch.randn(dims, features))

    @checked
    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        points = x.unflatten(1, (self.packing, -1))
        phase = points @ self.frequencies
        return torch.cat([points, phase.sin(), phase.cos()], 2).flatten(1)
