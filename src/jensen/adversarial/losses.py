r"""Losses of critic and generator, from logits: one value per example, without reduction over the batch.

A critic returns logits: D > 0 means real. With a margin loss l the critic descends $l(D(x)) + l(-D(G(z)))$, twice the
risk of `margin`. The generator's loss of $t = D(G(z))$ is always chosen by name:

| form           | generator descends | its slope in t  |                                                             |
| -------------- | ------------------ | --------------- | ----------------------------------------------------------- |
| saturating     | -l(-t)             | l'(-t)          | zero-sum; for decreasing l it vanishes where D is sure (t<0)|
| non-saturating | l(t)               | l'(t)           | largest there                                               |
| linear         | -t                 | -1              | the same everywhere                                         |

The squared loss increases beyond its target: in the saturating form it drives generated examples with t < -1 away from
real ones. There may be one logit per example, (B,), or many, (B, ...), as from a patch critic: losses are then means
over the logits of an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from jensen.adversarial.margin import MarginLoss, exponential, hinge, logistic, squared
from jensen.core.shapes import mean_per_example


@runtime_checkable
class GameLoss(Protocol):
    """Losses of both players, (B,) each, from the logits of B real and B generated examples.

    `paired` is whether the generator's loss needs the real logits; otherwise they may be None.
    """

    @property
    def paired(self) -> bool: ...

    def critic(self, real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, " b"]: ...

    def generator(self, real: Float[Tensor, "..."] | None, fake: Float[Tensor, "..."]) -> Float[Tensor, " b"]: ...


FORMS: dict[str, Callable[[MarginLoss, Tensor], Tensor]] = {
    "saturating": lambda loss, t: -loss(-t),
    "non-saturating": lambda loss, t: loss(t),
    "linear": lambda _, t: -t,
}


@dataclass(frozen=True)
class MarginGame:
    r"""The critic descends $l(D(x)) + l(-D(G(z)))$; the generator minimises the loss named by `form`.

    Args:
        loss: l. Logistic is the original GAN, squared is least squares (targets +1 and -1), hinge is SAGAN's.
        form: "saturating", "non-saturating" or "linear".

    Raises:
        ValueError: for a loss without a gradient, or an unknown form; when called, for logits of different shapes.

    Source: Goodfellow et al. (2014), section 3; Mao et al. (2017), equation 2 with b = c = 1, a = -1, times 2; Lim & Ye
    (2017), and Zhang et al. (2019), equation 4 (hinge, linear).

    >>> import torch
    >>> game, real, fake = MarginGame(hinge, "linear"), torch.tensor([0.5]), torch.tensor([-3.0])
    >>> game.critic(real, fake), game.generator(real, fake)
    (tensor([0.5000]), tensor([3.]))
    """

    loss: MarginLoss
    form: str

    def __post_init__(self) -> None:
        _check(self.loss, self.form)

    @property
    def paired(self) -> bool:
        return False

    def critic(self, real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, " b"]:
        return _per_example(self.loss(_alike(real, fake)) + self.loss(-fake))

    def generator(self, real: Float[Tensor, "..."] | None, fake: Float[Tensor, "..."]) -> Float[Tensor, " b"]:
        return _per_example(FORMS[self.form](self.loss, fake))


@dataclass(frozen=True)
class RelativisticGame:
    r"""Relativistic pairing: l of the difference between a real and a generated example.

    The critic descends $l(D(x) - D(G(z)))$ and the generator `form` at $t = D(G(z)) - D(x)$. Adding a constant to D
    changes nothing. The generator's loss depends on real examples, so both logits are needed.

    Args:
        loss: l; the published choice is logistic and non-saturating.
        form: "saturating", "non-saturating" or "linear".

    Raises:
        ValueError: for a loss without a gradient, or an unknown form; when called, for logits of different shapes.

    Source: Jolicoeur-Martineau (2019), section 4 (RpGAN); Huang et al. (2024), equation 2.

    >>> import torch
    >>> game = RelativisticGame(logistic, "non-saturating")
    >>> game.critic(torch.tensor([7.0]), torch.tensor([7.0]))
    tensor([0.6931])
    """

    loss: MarginLoss
    form: str

    def __post_init__(self) -> None:
        _check(self.loss, self.form)

    @property
    def paired(self) -> bool:
        return True

    def critic(self, real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, " b"]:
        return _per_example(self.loss(_alike(real, fake) - fake))

    def generator(self, real: Float[Tensor, "..."] | None, fake: Float[Tensor, "..."]) -> Float[Tensor, " b"]:
        return _per_example(FORMS[self.form](self.loss, fake - _alike(real, fake)))


@dataclass(frozen=True)
class WassersteinGame:
    r"""The critic descends $D(G(z)) - D(x)$, the generator $-D(G(z))$.

    Over 1-Lipschitz critics the minimum of the critic's loss is minus the Wasserstein-1 distance; over all critics it
    is unbounded. So clip the weights, penalise the gradient, or normalise the weights.

    Raises:
        ValueError: when called, for logits of different shapes.

    Source: Arjovsky et al. (2017), equations 2 and 3.

    >>> import torch
    >>> WassersteinGame().critic(torch.tensor([2.0]), torch.tensor([-1.0]))
    tensor([-3.])
    """

    @property
    def paired(self) -> bool:
        return False

    def critic(self, real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, " b"]:
        return _per_example(fake - _alike(real, fake))

    def generator(self, real: Float[Tensor, "..."] | None, fake: Float[Tensor, "..."]) -> Float[Tensor, " b"]:
        return _per_example(-fake)


def _check(loss: MarginLoss, form: str) -> None:
    if not loss.trainable:
        raise ValueError(
            f"loss must have a gradient to train with, got {loss.name}, which is for analysis only: "
            "train with hinge, which has the same optimal critic"
        )
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")


def _alike(real: Tensor | None, fake: Tensor) -> Tensor:
    """Returns real if it has the shape of fake: (B,) and (B, 1) would broadcast to all pairs."""
    if real is None:
        raise ValueError("logits of real examples must be given for this loss, got None")
    if real.shape != fake.shape or real.ndim < 1:
        raise ValueError(
            f"real and fake logits must have the same shape (B, ...), got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    return real


def _per_example(values: Tensor) -> Tensor:
    if not values.ndim:
        raise ValueError("logits must be (B, ...), at least one per example, got a single number")
    return values if values.ndim == 1 else mean_per_example(values)


GAME_LOSSES: dict[str, GameLoss] = {
    "saturating": MarginGame(logistic, "saturating"),
    "non-saturating": MarginGame(logistic, "non-saturating"),
    "least-squares": MarginGame(squared, "non-saturating"),
    "hinge": MarginGame(hinge, "linear"),
    "exponential": MarginGame(exponential, "saturating"),
    "relativistic": RelativisticGame(logistic, "non-saturating"),
    "wasserstein": WassersteinGame(),
}
"""Losses by the names used in settings. Exponential is zero-sum: e^-t would be unbounded."""


def game_loss(loss: object) -> GameLoss:
    """The loss of this name, or the given one.

    Raises:
        ValueError: for an unknown name, or an object without a loss for each player.

    >>> game_loss("hinge").form
    'linear'
    """
    if isinstance(loss, GameLoss) and not isinstance(loss, type):
        return loss
    if isinstance(loss, str) and loss in GAME_LOSSES:
        return GAME_LOSSES[loss]
    if isinstance(loss, MarginLoss):
        raise ValueError(
            f"loss must define the generator's loss too, as MarginGame({loss.name}, 'non-saturating') does"
        )
    raise ValueError(f"loss must be one of {', '.join(GAME_LOSSES)}, or a GameLoss, got {loss!r}")
