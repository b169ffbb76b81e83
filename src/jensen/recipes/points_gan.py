"""GANs of points in the plane, around modes that can be counted: a ring of eight, a grid of twenty-five."""

from __future__ import annotations

import io
from abc import abstractmethod
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from jensen.core.distances import squared_distances
from jensen.core.seeding import generator, numbered
from jensen.data.mixtures import Modes, grid, ring
from jensen.metrics import mode_coverage
from jensen.models.gan import GAN
from jensen.recipes.adversarial import Game, GANRecipe, Rates
from jensen.recipes.base import Positive, Settings, Track, Training
from jensen.recipes.folder import save_image
from jensen.report import plots
from jensen.report.page import Card, Picture, Section, Table

PLANE = 8000  # points of the noise on its picture
EDGES = torch.arange(0, 3.5, 0.5)  # of rings around a mode, in its standard deviations
JUDGE = 128  # width of a fresh critic
SEEN, KEPT = 11, 12  # streams of random numbers: to train on, to judge with


class RingData(Settings):
    """Points around modes on a circle."""

    modes: Positive = 8
    radius: Annotated[float, Field(gt=0)] = 1.0
    std: Annotated[float, Field(gt=0)] = 0.01
    balance: Annotated[float, Field(gt=0, le=1)] = 1.0  # weight of the rarest mode over that of the commonest
    points: Annotated[int, Field(ge=16)] = 100_000
    test: Annotated[int, Field(ge=16)] = 2_500

    def law(self) -> Modes:
        return ring(self.modes, radius=self.radius, std=self.std, balance=self.balance)


class GridData(Settings):
    """Points around modes on a square grid."""

    side: Positive = 5
    spacing: Annotated[float, Field(gt=0)] = 2.0
    std: Annotated[float, Field(gt=0)] = 0.1
    balance: Annotated[float, Field(gt=0, le=1)] = 1.0
    points: Annotated[int, Field(ge=16)] = 100_000
    test: Annotated[int, Field(ge=16)] = 2_500

    def law(self) -> Modes:
        return grid(self.side, spacing=self.spacing, std=self.std, balance=self.balance)


class PointsNetwork(Settings):
    """Fully connected layers of both players."""

    latent: Positive = 2
    width: Positive = 128
    layers: Positive = 3  # hidden ones
    critic_width: Positive = 128
    critic_layers: Positive = 3
    activation: Literal["relu", "leaky-relu"] = "relu"
    slope: Annotated[float, Field(gt=0, lt=1)] = 0.2  # of a LeakyReLU below 0
    waves: Annotated[int, Field(ge=0)] = 0  # random ones, of whose phases the critic sees sines and cosines as well
    frequency: Annotated[float, Field(gt=0)] = 2.0  # standard deviation of theirs, radians a unit of length

    def stack(self, inputs: int, width: int, layers: int, outputs: int) -> nn.Sequential:
        sizes = [inputs, *[width] * layers]
        parts: list[nn.Module] = []
        for a, b in pairwise(sizes):
            parts += [nn.Linear(a, b), nn.ReLU() if self.activation == "relu" else nn.LeakyReLU(self.slope)]
        return nn.Sequential(*parts, nn.Linear(sizes[-1], outputs))


class Waves(nn.Module):
    r"""A pack of points in the plane with $\sin(w_k \cdot x), \cos(w_k \cdot x)$ of each, $w_k \sim N(0, s^2 I)$ fixed.

    Layers on raw coordinates learn what varies slowly first, and modes far narrower than the gaps between them late.

    Source: Tancik et al. (2020), section 4.

    >>> Waves(8, 2.0, packing=3)(torch.zeros(5, 6)).shape
    torch.Size([5, 54])
    """

    frequencies: Tensor

    def __init__(self, waves: int, frequency: float, packing: int = 1):
        super().__init__()
        self.packing = packing
        self.register_buffer("frequencies", frequency * torch.randn(2, waves))

    def forward(self, x: Tensor) -> Tensor:
        points = x.reshape(len(x), self.packing, 2)
        phase = points @ self.frequencies
        return torch.cat([points, phase.sin(), phase.cos()], 2).flatten(1)


class Nearest(nn.Module):
    r"""A point x in the plane, which of K modes it is nearest to, and where it lies from there, (N, K + 5).

    With $u$ the offset in standard deviations: $u\,\mathrm{asinh}|u| / |u|$ and $\mathrm{asinh}|u|$, which resolve a
    mode and stay small between modes.

    >>> Nearest(ring(8))(torch.zeros(4, 2)).shape
    torch.Size([4, 13])
    """

    centres: Tensor

    def __init__(self, law: Modes):
        super().__init__()
        self.std = law.std
        self.register_buffer("centres", law.centres)

    def forward(self, x: Tensor) -> Tensor:
        mode = (x[:, None] - self.centres).square().sum(2).argmin(1)
        u = (x - self.centres[mode]) / self.std
        far = u.norm(dim=1, keepdim=True)
        size = far.asinh()
        which = nn.functional.one_hot(mode, len(self.centres)).to(x)
        return torch.cat([x, which, u * size / far.clamp(min=1e-6), size], 1)


class PointsGAN(GANRecipe):
    """Points whose law is known, mode by mode."""

    what: ClassVar[Literal["pictures", "points"]] = "points"
    network: PointsNetwork = PointsNetwork()

    @abstractmethod
    def law(self) -> Modes:
        """Of the data."""

    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Numbers of training and of test data."""

    def model(self) -> GAN:
        network = self.network
        return GAN(network.stack(network.latent, network.width, network.layers, 2), [network.latent])

    def critic(self) -> nn.Module:
        network, m = self.network, self.game.packing
        seen = 2 + 2 * network.waves
        stack = network.stack(seen * m, network.critic_width, network.critic_layers, 1)
        return nn.Sequential(Waves(network.waves, network.frequency, m), stack) if network.waves else stack

    def fresh_critic(self) -> nn.Module:
        """One that sees a point on the scale of the modes, to judge with."""
        law = self.law()
        return nn.Sequential(Nearest(law), self.network.stack(len(law.centres) + 5, JUDGE, 2, 1))

    def training_data(self) -> Tensor:
        return self.law().draw(self.sizes()[0], numbered(self.seed, SEEN, 1009))

    def test_data(self) -> Tensor:
        return self.law().draw(self.sizes()[1], numbered(self.seed, KEPT, 1009))

    # judging -----------------------------------------------------------------------------

    def judged(self, made: Tensor, model: GAN, samples: Path, track: Track) -> dict[str, Any]:
        """Which modes are reached, of what weight each, and the same of as many test data."""
        if self.network.latent == 2:
            z = model.latent(PLANE, generator(self.seed, next(model.parameters()).device))
            save_image(noise_and_data(z.cpu(), model.decode(z).cpu(), self.law().centres), samples / "noise.png")
        return {"drawn": self._modes(made), "data": self._modes(self.test_data()[: len(made)])}

    def _modes(self, x: Tensor) -> dict[str, Any]:
        law = self.law()
        found = mode_coverage(x, law.centres, law.std, law.weights)
        share = found.high_quality_interval
        nearest = next(squared_distances(x, law.centres, len(x))).argmin(1)
        return {
            "n": found.n,
            "recovered": found.recovered,
            "of": found.of,
            "high_quality": {"value": share.value, "low": share.low, "high": share.high},
            "reverse_kl": found.reverse_kl,
            "floor": found.floor,
            "shares": (nearest.bincount(minlength=found.of) / len(x)).tolist(),
            "rings": ring_divergences(x, law),
        }

    def own_rows(self, own: dict[str, Any]) -> list[tuple[str, str]]:
        drawn, data = own["drawn"], own["data"]
        return [
            ("modes recovered", f"{drawn['recovered']} of {drawn['of']}, n = {drawn['n']}"),
            ("high quality", f"{_percent(drawn['high_quality'])} (data {_percent(data['high_quality'])})"),
            ("reverse KL of modes", f"{drawn['reverse_kl']:.4f} (draws of the data: {drawn['floor']:.4f} on average)"),
            (
                "Jensen-Shannon, total variation of rings",
                f"{drawn['rings']['jensen_shannon']:.4f}, {drawn['rings']['total_variation']:.4f} "
                f"(data {data['rings']['jensen_shannon']:.4f}, {data['rings']['total_variation']:.4f})",
            ),
        ]

    def own_cards(self, own: dict[str, Any]) -> list[Card]:
        drawn, data = own["drawn"], own["data"]
        share = drawn["high_quality"]
        return [
            Card("modes recovered", f"{drawn['recovered']} of {drawn['of']}", f"by {drawn['n']} samples"),
            Card(
                "high quality",
                f"{share['value']:.1%}",
                f"[{share['low']:.1%}, {share['high']:.1%}]; data {data['high_quality']['value']:.1%}",
            ),
            Card("reverse KL of modes", f"{drawn['reverse_kl']:.4f}", f"nats; data would show {drawn['floor']:.4f}"),
        ]

    def own_sections(self, own: dict[str, Any], samples: Path) -> list[Section]:
        drawn, weights = own["drawn"], self.law().weights.tolist()
        noise = Section(
            "From noise to modes",
            "Each point of the noise in the colour of the mode that its sample is nearest to.",
            [Picture(samples / "noise.png", "noise and samples, coloured by mode")],
        )
        return [
            *([noise] if self.network.latent == 2 else []),
            Section(
                "Modes",
                "Share of samples nearest to each mode, beside its weight in the data. A sample within 3 standard "
                "deviations of its mode is of high quality, and a mode with such a sample is recovered. Reverse KL is "
                "of these shares to the weights; that of whole densities is at least as large. The last two compare "
                "the shares of samples in rings around each mode, half a standard deviation wide, with their exact "
                "probabilities: no critic takes part, and the row of test data says what chance alone would show.",
                plots=[plots.shares(drawn["shares"], weights, title="share of each mode", xlabel="mode")],
                table=Table(
                    ("", "recovered", "high quality", "reverse KL, nats", "Jensen-Shannon", "total variation"),
                    [
                        [
                            name,
                            f"{row['recovered']} of {row['of']}",
                            _percent(row["high_quality"]),
                            f"{row['reverse_kl']:.4f}",
                            f"{row['rings']['jensen_shannon']:.4f}",
                            f"{row['rings']['total_variation']:.4f}",
                        ]
                        for name, row in (("samples", drawn), ("test data", own["data"]))
                    ],
                ),
            ),
        ]


def ring_divergences(x: Tensor, law: Modes) -> dict[str, float]:
    """Between the shares of points (N, 2) in rings around the modes and the exact probabilities of these.

    Merging points loses divergence, counting finitely many adds some: compare with as many draws of the law.
    """
    exact = law.rings(EDGES).flatten()
    share = law.which_ring(x, EDGES).bincount(minlength=len(exact)).double() / len(x)
    middle = (share + exact) / 2
    gain = torch.xlogy(share, share / middle) + torch.xlogy(exact, exact / middle)
    return {"jensen_shannon": float(gain.sum()) / 2, "total_variation": float((share - exact).abs().sum()) / 2}


def noise_and_data(z: Tensor, x: Tensor, centres: Tensor) -> Image.Image:
    """Noise on the left and what becomes of it on the right, each point in the colour of the mode it comes to."""
    nearest = next(squared_distances(x, centres, len(x))).argmin(1)
    colours = colormaps["hsv"]((nearest / len(centres)).numpy())
    figure = Figure(figsize=(8, 4), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, points, title in zip(figure.subplots(1, 2), (z, x), ("noise", "samples"), strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=2.5, c=colours, linewidths=0)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(title, fontsize=10, color="#303030")
        axes.tick_params(colors=plots.GREY, labelsize=8)
        for side in axes.spines.values():
            side.set_color("#dfe3e8")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _percent(share: dict[str, float]) -> str:
    return f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"


_TRAINING = partial(Training, average=0.99, save_every=2000, log_every=100, previews=6, clip=None)


class RingGAN(PointsGAN):
    """Eight modes on a circle."""

    summary: ClassVar[str] = "GAN of points on a ring of eight modes"
    recipe: Literal["ring-gan"] = "ring-gan"
    data: RingData = RingData()
    training: Training = _TRAINING(steps=5000, batch_size=256)

    def law(self) -> Modes:
        return self.data.law()

    def sizes(self) -> tuple[int, int]:
        return self.data.points, self.data.test


class GridGAN(PointsGAN):
    """Twenty-five modes on a square grid.

    The critic sees waves of each point: packs learnt where the grid is without them, and in so few steps not its modes.
    R1 is weak: without it trials of packs lost modes too, and with it the plain game still loses some.
    """

    summary: ClassVar[str] = "GAN of points on a grid of twenty-five modes"
    recipe: Literal["grid-gan"] = "grid-gan"
    data: GridData = GridData()
    network: PointsNetwork = PointsNetwork(critic_width=64, waves=16)
    game: Game = Game(penalty="r1", penalty_weight=0.1)
    rates: Rates = Rates(generator=2e-3, critic=2e-3, betas=(0.0, 0.999))
    training: Training = _TRAINING(steps=10_000, batch_size=128)

    def law(self) -> Modes:
        return self.data.law()

    def sizes(self) -> tuple[int, int]:
        return self.data.points, self.data.test


class GridPacGAN(GridGAN):
    """The same with a critic of packs."""

    summary: ClassVar[str] = "GAN of points on a grid of twenty-five modes, its critic seeing two at a time"
    recipe: Literal["grid-pacgan"] = "grid-pacgan"  # type: ignore[assignment]
    game: Game = Game(packing=2, penalty="r1", penalty_weight=0.1)
