"""Fully connected networks for points and small pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from jensen.core.shapes import checked
from jensen.nn.embeddings import Fourier, check_labels


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Sequential:
    """Linear layers of the given widths with activations in between: (..., widths[0]) -> (..., widths[-1]).

    Raises:
        ValueError: for fewer than two widths, or one below 1.

    >>> mlp(4, 8, 2)(torch.zeros(5, 3, 4)).shape
    torch.Size([5, 3, 2])
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be at least two, each at least 1, got {widths}")
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


class TimeMLP(nn.Module):
    r"""A residual network of $(z_t, t)$ and an optional class; time and class modulate every block.

    $h \leftarrow h + W_2\,\mathrm{silu}(W_1(\mathrm{norm}(h)(1 + a(c)) + b(c)))$ where c embeds t and the class.

    Args:
        shape: shape of one event, which is flattened.
        width: width of the hidden layers, at least 1.
        blocks: number of residual blocks of two layers each, at least 1.
        classes: number of classes; index `classes` means "no class". None for an unconditional network.
        highest: highest frequency of the time embedding.
        dropout: dropout probability in each block, in [0, 1).
        outputs: number of outputs per input number, along axis 1; 2 for a `NetworkDenoiser` that learns variances.

    Raises:
        ValueError: for a setting out of range; when called, for conditions that are not one class per row, or for any
            condition if the network has no classes.

    >>> TimeMLP((3, 4, 4), outputs=2)(torch.zeros(5, 3, 4, 4), torch.zeros(5)).shape
    torch.Size([5, 6, 4, 4])
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        width: int = 256,
        blocks: int = 3,
        classes: int | None = None,
        highest: float = 64.0,
        dropout: float = 0.0,
        outputs: int = 1,
    ):
        super().__init__()
        size = math.prod(shape)
        if min(size, width, blocks, outputs) < 1 or (classes is not None and classes < 1):
            raise ValueError(
                "shape, width, blocks, classes and outputs must be at least 1, "
                f"got {tuple(shape)}, {width}, {blocks}, {classes} and {outputs}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.outputs = outputs
        self.enter = nn.Linear(size, width)
        self.time = nn.Sequential(
            Fourier(64, highest=highest), nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label = None if classes is None else nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(blocks))
        self.exit = nn.Linear(width, outputs * size)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    @checked
    def forward(
        self, z: Float[Tensor, "b ..."], t: Float[Tensor, " b"], cond: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "b ..."]:
        """Args: z (B, *shape); t (B,); cond (B,) or (B, 1) classes, None for "no class"."""
        c = self.time(t)
        if self.label is not None:
            none = self.label.num_embeddings - 1
            if cond is not None:
                check_labels(cond, none, (len(t),), (len(t), 1))
            label = torch.full(t.shape, none, device=t.device) if cond is None else cond.reshape(len(t))
            c = c + self.label(label.long())
        elif cond is not None:
            raise ValueError("cond must be None for a network without classes")
        h = self.enter(z.flatten(1))
        for block in self.blocks:
            h = block(h, c)
        return self.exit(nn.functional.silu(h)).reshape(len(z), self.outputs * z.shape[1], *z.shape[2:])


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        scale, shift = self.modulate(nn.functional.silu(c)).chunk(2, dim=1)
        return h + self.body(self.norm(h) * (1 + scale) + shift)
