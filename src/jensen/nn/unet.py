"""A U-Net on patches of pixels, which makes it fast on a CPU: no convolution runs at full size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.core.shapes import checked
from jensen.nn.embeddings import Fourier, TextContext, TextEmbedding
from jensen.nn.grids import crop, pad
from jensen.nn.residual import GROUPS, zero


class ResidualBlock(nn.Module):
    """x + conv(silu(film(norm(conv(silu(norm(x)))))), with film an embedding's modulation; zero at first."""

    def __init__(self, channels: int, out_channels: int, embedding: int):
        super().__init__()
        self.norm_1 = nn.GroupNorm(GROUPS, channels)
        self.conv_1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * out_channels)
        self.norm_2 = nn.GroupNorm(GROUPS, out_channels)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        zero(self.conv_2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        return self.skip(x) + self.conv_2(F.silu(h))


class SelfAttention(nn.Module):
    r"""$x + W\,\mathrm{softmax}(q k^\top / \sqrt{d})\, v$ between all positions of a grid; zero at initialisation.

    It is written out because PyTorch's fused kernels lack second derivatives, which score matching needs.
    """

    def __init__(self, channels: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        each = self.query_key_value(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        query, key, value = each.unbind(1)
        weights = (query.transpose(2, 3) @ key / (c // self.heads) ** 0.5).softmax(-1)
        return x + self.out((value @ weights.transpose(2, 3)).reshape(b, c, h, w))


class TextAttention(nn.Module):
    """Cross-attention from picture positions to characters, for written text with a learned prior of columns.

    The first `written` of the characters are written in the picture from left to right. With W columns, character l of
    these L is initially attended to from the columns around (l + 1/2) W / L, and the other characters from all alike;
    the prior is a free parameter, one number per head, character and column. Without written characters there is no
    prior.
    """

    def __init__(self, channels: int, text_channels: int, length: int, written: int, columns: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key_value = nn.Linear(text_channels, 2 * channels)
        self.out = nn.Conv2d(channels, channels, 1)
        zero(self.out)
        prior = F.pad(_prior(written, columns), (0, length - written)) if written else None
        self.prior = None if prior is None else nn.Parameter(prior.repeat(heads, 1, 1))

    def forward(self, x: Tensor, text: Float[Tensor, "b l c"]) -> Tensor:
        b, c, h, w = x.shape
        query = self.query(self.norm(x)).permute(0, 2, 3, 1).reshape(b, h * w, self.heads, -1).transpose(1, 2)
        key, value = self.key_value(text).view(b, text.shape[1], 2, self.heads, -1).unbind(2)
        # rows of the picture share the prior of their column
        bias = None if self.prior is None else self.prior.repeat(1, h, 1).to(query.dtype)
        attended = F.scaled_dot_product_attention(query, key.transpose(1, 2), value.transpose(1, 2), attn_mask=bias)
        attended = attended.transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return x + self.out(attended)


def _prior(length: int, columns: int) -> Float[Tensor, "columns length"]:
    """Log weights of a Gaussian around the position of each character, with a standard deviation of half a
    character.
    """
    centres = (torch.arange(length) + 0.5) / length
    places = (torch.arange(columns) + 0.5) / columns
    return -((places[:, None] - centres[None, :]) ** 2) * (2 * length**2)


class Level(nn.Module):
    """Residual blocks at one resolution; after the first, self-attention, and attention to the text if there is one."""

    def __init__(
        self,
        channels: int,
        width: int,
        blocks: int,
        *,
        embedding: int,
        text_channels: int,
        length: int,
        written: int,
        columns: int,
        attend: bool,
    ):
        super().__init__()
        self.first = ResidualBlock(channels, width, embedding)
        self.own = SelfAttention(width) if attend else None
        self.text = TextAttention(width, text_channels, length, written, columns) if length > 1 else None
        self.rest = nn.ModuleList(ResidualBlock(width, width, embedding) for _ in range(blocks - 1))

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None) -> Tensor:
        x = self.first(x, embedding)
        if self.own is not None:
            x = self.own(x)
        if self.text is not None:
            x = self.text(x, text)
        for block in self.rest:
            x = block(x, embedding)
        return x


class UNet(nn.Module):
    """A U-Net on patches, given a noise level and, optionally, a class or a text: (B, C, H, W) -> (B, outputs C, H, W).

    The stem folds `patch` x `patch` pixels into channels, so the finest feature map has H W / patch^2
    positions. Sides are padded to multiples of patch 2^(levels - 1) by repeating the border, and the output is cropped.
    Level i has `widths[i]` channels and half the rows and columns of the level above. The noise level and
    the condition modulate every block; a text of more than one character is attended to as well. For larger pictures or
    devices use more `widths` and `blocks`.

    Args:
        channels: number of channels of the picture.
        size: (H, W) of the picture.
        alphabet, length: size of the alphabet and length of the text, (B, length); index `alphabet` is "no character".
            A class is a text of length 1. With alphabet None there is no condition.
        written: number of characters, from the first, that are written in the picture from left to right, which is
            where attention looks first; None: all; 0 for captions, whose words are read by convolutions over
            characters.
        widths: channels of each level, at least one, multiples of 8.
        blocks: number of residual blocks per level, both on the way down and on the way up, at least 1.
        patch: side of a patch.
        text_channels: size of a character's embedding.
        attention: levels of at most this many rows and columns have self-attention; 0 for none.
        outputs: number of outputs per input number; 2 for a `NetworkDenoiser` that learns variances.

    Raises:
        ValueError: for a setting out of range; when called, unless there is one text per row, of this length, with
            indices from 0 to `alphabet`, or for a condition where there is none.

    >>> net = UNet(1, (24, 64), alphabet=10, length=4)
    >>> net(torch.zeros(2, 1, 24, 64), torch.zeros(2), torch.zeros(2, 4, dtype=torch.long)).shape
    torch.Size([2, 1, 24, 64])
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        alphabet: int | None = None,
        length: int = 1,
        widths: Sequence[int] = (96, 192),
        blocks: int = 2,
        patch: int = 4,
        text_channels: int = 96,
        outputs: int = 1,
        attention: int = 0,
        written: int | None = None,
    ):
        super().__init__()
        if not widths or any(width < 1 or width % 8 for width in widths):
            raise ValueError(f"widths must be at least one, each a multiple of 8, got {tuple(widths)}")
        if min(channels, blocks, patch, outputs) < 1:
            raise ValueError(
                "channels, blocks, patch and outputs must be at least 1, "
                f"got {channels}, {blocks}, {patch} and {outputs}"
            )
        if min(size) < 1 or attention < 0:
            raise ValueError(
                f"size must be a height and a width, each at least 1, and attention at least 0, got {tuple(size)} "
                f"and {attention}"
            )
        written = length if written is None else written
        if not 0 <= written <= length:
            raise ValueError(f"written must be from 0 to {length}, the length of the text, got {written}")
        embedding = 2 * widths[0]
        self.patch, self.factor = patch, patch * 2 ** (len(widths) - 1)
        self.time = nn.Sequential(Fourier(64), nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.text = None if alphabet is None else TextEmbedding(alphabet, length, text_channels)
        self.context = None if alphabet is None or written else TextContext(text_channels)
        characters = length if written else 1
        self.pooled = None if alphabet is None else nn.Linear(characters * text_channels, embedding)
        attended = 0 if alphabet is None else length
        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            rows, columns = (-(-side // self.factor) * (self.factor // patch) >> i for side in size)
            level = partial(
                Level,
                embedding=embedding,
                text_channels=text_channels,
                length=attended,
                written=written,
                columns=columns,
                attend=max(rows, columns) <= attention,
            )
            self.down.append(level(width, width, blocks))
            if i + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, widths[i + 1], 2, stride=2))
                self.grow.append(nn.Conv2d(widths[i + 1], 4 * width, 1))
                self.up.append(level(2 * width, width, blocks))
        self.norm = nn.GroupNorm(GROUPS, widths[0])
        self.head = nn.Conv2d(widths[0], outputs * channels * patch**2, 3, padding=1)
        zero(self.head)

    @checked
    def forward(
        self, x: Float[Tensor, "b c h w"], noise: Float[Tensor, " b"], cond: Shaped[Tensor, "..."] | None = None
    ) -> Float[Tensor, "b c_out h w"]:
        if (cond is None) != (self.text is None):
            raise ValueError(f"this network takes {'no' if self.text is None else 'a'} condition, got {cond!r}")
        text, embedding = None, self.time(noise)
        if self.text is not None and self.pooled is not None and cond is not None:
            text = self.text(cond, len(x))
            if self.context is not None:
                text = self.context(text)
            embedding = embedding + self.pooled(text.flatten(1) if self.context is None else text.mean(1))
        embedding = F.silu(embedding)
        h = self.stem(F.pixel_unshuffle(pad(x, self.factor), self.patch).contiguous(memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for i, level in enumerate(self.down):
            h = level(h, embedding, text)
            if i < len(self.shrink):
                skips.append(h)
                h = self.shrink[i](h)
        for i in reversed(range(len(self.up))):
            h = F.pixel_shuffle(self.grow[i](h), 2)
            h = torch.cat([h, skips[i]], dim=1).contiguous(memory_format=torch.channels_last)
            h = self.up[i](h, embedding, text)
        return crop(F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch), x.shape[2:])
