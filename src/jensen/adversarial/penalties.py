r"""Regularisation of a critic: penalties on its gradient, spectral normalisation, weight clipping.

Penalties are (B,), one per example: the norm is over all axes but the first, of events of any shape. They need one
logit per example, from a critic that processes examples independently (no batch norm); pass a patch critic as
`lambda x: critic(x).flatten(1).mean(1)`. Under autocast they are computed in float32, and all their derivatives are
finite where the gradient is 0. They need a second derivative.

Penalties are also differentiable with respect to the examples. In a game this has no effect, since each player descends
its own loss with respect to its own parameters; a loop that calls `backward` on the critic's loss must detach the
generated examples.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization

from jensen.core.seeding import drawing, normal
from jensen.core.shapes import check_count, check_rows, right_pad, single

Critic = Callable[[Tensor], Tensor]
GAME = "as the penalty of a game, pass lambda critic, real, fake: r1(critic, real, gamma)"


def r1(critic: Critic, real: Float[Tensor, "b ..."], gamma: float = 1.0) -> Float[Tensor, " b"]:
    r"""$\frac\gamma2 |\nabla D(x)|^2$ at real examples. The factor 1/2 is part of the convention; the weight is gamma.

    Args:
        critic: D, from (B, ...) to one logit per example.
        real: real examples, (B, ...).
        gamma: weight of the penalty, at least 0.

    Raises:
        ValueError: for a negative gamma, or if the critic does not give one logit per example.

    Source: Mescheder et al. (2018), equation 9.

    >>> r1(lambda x: x @ torch.tensor([3.0, 4.0]), torch.zeros(2, 2), gamma=10.0)
    tensor([125., 125.])
    """
    return _weight("gamma", gamma) / 2 * _squared_norm(critic, real)


def r2(critic: Critic, fake: Float[Tensor, "b ..."], gamma: float = 1.0) -> Float[Tensor, " b"]:
    r"""$\frac\gamma2 |\nabla D(G(z))|^2$ at generated examples, by the convention of `r1`.

    Args:
        critic: D, from (B, ...) to one logit per example.
        fake: generated examples, (B, ...).
        gamma: weight of the penalty, at least 0.

    Raises:
        ValueError: for a negative gamma, or if the critic does not give one logit per example.

    Source: Mescheder et al. (2018), equation 10.

    >>> r2(lambda x: x @ torch.tensor([3.0, 4.0]), torch.zeros(1, 2), gamma=2.0)
    tensor([25.])
    """
    return _weight("gamma", gamma) / 2 * _squared_norm(critic, fake)


def gradient_penalty(
    critic: Critic,
    real: Float[Tensor, "b ..."],
    fake: Float[Tensor, "..."],
    weight: float = 10.0,
    *,
    sides: int = 2,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " b"]:
    r"""WGAN-GP: $\lambda (|\nabla D(\hat x)| - 1)^2$ between real and generated, or one-sided, $\max(0, .)^2$.

    $\hat x = \epsilon x + (1 - \epsilon) G(z)$ with one $\epsilon \sim U[0, 1]$ per example. There is no factor of one
    half.

    Args:
        critic: D, from (B, ...) to one logit per example.
        real, fake: real and generated examples, (B, ...), of the same shape.
        weight: lambda, at least 0.
        sides: 2 penalises norms below and above 1; 1 penalises only norms above 1.
        generator: random generator for epsilon.

    Raises:
        ValueError: for a negative weight, sides other than 1 and 2, examples of different shapes, or more than one
            logit per example.

    Source: Gulrajani et al. (2017), equation 3 and section 4; Petzka et al. (2018), equation 8 for one side.

    >>> gradient_penalty(lambda x: x @ torch.tensor([3.0, 4.0]), torch.ones(1, 2), torch.zeros(1, 2))
    tensor([160.])
    """
    if real.shape != fake.shape:
        raise ValueError(f"real and fake must have the same shape, got {tuple(real.shape)} and {tuple(fake.shape)}")
    check_rows(real=real, fake=fake)
    real = single(real)
    with drawing(generator):
        share = right_pad(torch.rand(len(real), device=real.device, dtype=real.dtype), real)
    return _towards_one(critic, torch.lerp(single(fake).to(real), real, share), weight, sides)


def dragan(
    critic: Critic,
    real: Float[Tensor, "b ..."],
    std: float,
    weight: float = 10.0,
    *,
    sides: int = 2,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " b"]:
    r"""$\lambda (|\nabla D(x + \delta)| - 1)^2$ around real examples, $\delta \sim N(0, \mathrm{std}^2 I)$.

    Args:
        critic: D, from (B, ...) to one logit per example.
        real: real examples, (B, ...).
        std: standard deviation of the noise, in the unit of x, at least 0.
        weight: lambda, at least 0.
        sides: 2 penalises norms below and above 1; 1 penalises only norms above 1.
        generator: random generator for the noise.

    Raises:
        ValueError: for a negative weight or std, sides other than 1 and 2, or more than one logit per example.

    Source: Kodali et al. (2017), equation 1, with k = 1 and c = std^2.

    >>> dragan(lambda x: x @ torch.tensor([3.0, 4.0]), torch.zeros(1, 2), std=0.5)
    tensor([160.])
    """
    check_rows(real=real)
    real = single(real)
    x = real + _weight("std", std) * normal(real.shape, generator, like=real)
    return _towards_one(critic, x, weight, sides)


def spectral_norm(critic: nn.Module, iterations: int = 1) -> nn.Module:
    r"""Divide the weight of every linear and convolutional layer by its largest singular value; returns the critic.

    $\bar W = W / \langle W, u v^T \rangle$ with singular vectors u, v that are buffers. A forward pass does not
    change them; `power_iteration` updates them, and the objectives call it after each update of the critic.

    A layer's weight is reshaped to the matrix (out, everything else). For a convolution the norm of this matrix is not
    that of the layer as a linear map, which can be larger by up to the root of the number of taps (3 for 3 x 3). Other
    weights, such as the in-projection of an attention, are not normalised. A weight of zeros has no direction and is
    drawn from torch's initial distribution.

    Args:
        critic: the critic, changed in place.
        iterations: power iterations in each call of `power_iteration`, at least 1.

    Raises:
        ValueError: if there is no such layer, one is normalised already, or iterations < 1.

    Source: Miyato et al. (2018), section 2.1 and appendix A.

    >>> spectral_norm(nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU()))[0].parametrizations
    ModuleDict(
      (weight): ParametrizationList(
        (0): SpectralNorm()
      )
    )
    """
    check_count(iterations=iterations)
    layers = [m for m in critic.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    if not layers or any(_normalised(m) for m in layers):
        raise ValueError("a critic to normalise must have linear or convolutional layers, none of them normalised yet")
    for layer in layers:
        dim = int(isinstance(layer, nn.modules.conv._ConvTransposeNd))  # the output axis
        if not layer.weight.is_meta and not bool(layer.weight.any()):
            layer.reset_parameters()
        register_parametrization(layer, "weight", SpectralNorm(layer.weight, iterations, dim))
    return critic


class SpectralNorm(_SpectralNorm):
    """Torch's parametrization with a pure forward pass, in training mode too: only `turn` moves u and v."""

    def forward(self, weight: Tensor) -> Tensor:
        sigma = (self._reshape_weight_to_matrix(weight) * (self._u[:, None] * self._v)).sum()  # float32 in autocast
        return weight / sigma

    def turn(self, weight: Tensor) -> None:
        """Power iterations from the current u and v."""
        self._power_method(self._reshape_weight_to_matrix(weight), self.n_power_iterations)


@torch.no_grad()
def power_iteration(module: nn.Module) -> None:
    r"""Update the singular vectors of `spectral_norm`: $u \leftarrow W v / |W v|$, $v \leftarrow W^T u / |W^T u|$.

    Called in `Objective.after`; a module without such layers is not changed.

    Source: Miyato et al. (2018), algorithm 1.

    >>> layer = spectral_norm(nn.Linear(3, 3))
    >>> for _ in range(500):
    ...     power_iteration(layer)
    >>> round(float(torch.linalg.matrix_norm(layer.weight.detach(), 2)), 3)
    1.0
    """
    for layer in module.modules():
        if isinstance(layer, ParametrizationList) and any(isinstance(part, SpectralNorm) for part in layer):
            weight = layer.original
            for part in layer:
                if isinstance(part, SpectralNorm):
                    part.turn(weight)
                weight = part(weight)


def _normalised(layer: nn.Module) -> bool:
    """Whether a layer is normalised already, by torch's parametrizations or by its older hooks."""
    return nn.utils.parametrize.is_parametrized(layer, "weight") or hasattr(layer, "weight_orig")


@torch.no_grad()
def clip_weights(critic: nn.Module, bound: float = 0.01) -> None:
    """Clamp every parameter to [-bound, bound], in place; called in `Objective.after` of the critic.

    Raises:
        ValueError: unless the bound is positive.

    Source: Arjovsky et al. (2017), algorithm 1.

    >>> critic = nn.Linear(2, 1)
    >>> clip_weights(critic, 0.01)
    >>> bool(critic.weight.abs().max() <= 0.01)
    True
    """
    if not bound > 0:
        raise ValueError(f"bound must be positive, got {bound}")
    for p in critic.parameters():
        p.clamp_(-bound, bound)


def _weight(name: str, value: float) -> float:
    if isinstance(value, Tensor) and value.ndim:
        raise ValueError(f"{name} must be one number, got a tensor {tuple(value.shape)}: {GAME}")
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return value


def _squared_norm(critic: Critic, x: Tensor) -> Tensor:
    """Squared norm of the critic's gradient per example, (B,), differentiable in its parameters, and in x if x is."""
    check_rows(x=x)
    training = torch.is_grad_enabled()
    x = single(x)
    x = x if training and x.requires_grad else x.detach().requires_grad_()
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        logits = critic(x)
        if logits.numel() != len(x) or logits.shape[:1] != x.shape[:1]:
            raise ValueError(
                f"a critic must give one logit per example, ({len(x)},), got {tuple(logits.shape)}: "
                "pass a mean over patches"
            )
        if not logits.requires_grad:  # a constant
            return x.new_zeros(len(x))
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=training, materialize_grads=True)
    return gradient.reshape(len(x), x.shape[1:].numel()).square().sum(1)


def _towards_one(critic: Critic, x: Tensor, weight: float, sides: int) -> Tensor:
    if sides not in (1, 2):
        raise ValueError(f"sides must be 1 or 2, got {sides}")
    _weight("weight", weight)
    square = _squared_norm(critic, x)
    # the slope of the square root is infinite at 0: there the norm is a constant 0
    norm = torch.where(square == 0, 0.0, torch.where(square == 0, 1.0, square).sqrt())
    excess = norm - 1
    return weight * (excess if sides == 2 else excess.relu()).square()
