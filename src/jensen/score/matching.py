"""Score matching: losses whose minimiser is the gradient of log p with respect to x. One value per example, without
reduction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.core.seeding import Rng, normal
from jensen.core.shapes import check_count, check_rows, checked, right_pad

Score = Callable[[Tensor], Tensor]
"""Maps x (B, ...) to its score (B, ...); each output row depends on that row of x alone."""

NoisyScore = Callable[[Tensor, Tensor], Tensor]
"""Maps x (B, ...) and noise levels sigma (B,) to the score of the density noised by sigma."""


def score_at(score: Score, x: Tensor) -> Tensor:
    """score(x). The score at x; raises ValueError if it does not have the shape of x."""
    check_rows(x=x)
    s = score(x)
    if s.shape != x.shape:
        raise ValueError(f"a score must have the shape of x, {tuple(x.shape)}, got {tuple(s.shape)}")
    return s


def explicit(score: Score, x: Float[Tensor, "b ..."], target_score: Score) -> Float[Tensor, " b"]:
    r"""Explicit score matching, $\frac12 |s(x) - \nabla \log p(x)|^2$: for densities whose score is known.

    Its mean over x ~ p is the Fisher divergence; it is 0 for the exact score.

    Args:
        score: the fitted score s.
        x: (B, ...), draws of p.
        target_score: the gradient of log p, as a function of x.

    Returns:
        (B,), at least 0.

    Raises:
        ValueError: if the shape of either score is not that of x.

    Source: Hyvarinen (2005), equation 2.

    >>> explicit(lambda x: -2 * x, torch.tensor([[3.0]]), lambda x: -x)
    tensor([4.5000])
    """
    return (score_at(score, x) - score_at(target_score, x)).square().flatten(1).sum(1) / 2


def implicit(score: Score, x: Float[Tensor, "b ..."], *, chunk: int = 64) -> Float[Tensor, " b"]:
    r"""Implicit score matching, $\mathrm{tr}\,\nabla s(x) + \frac12 |s(x)|^2$, with the exact trace.

    Over x ~ p it is explicit score matching up to a constant: its mean is that of `explicit` minus $\frac12 E|\nabla
    \log p|^2$, for a density that falls to 0 at infinity. The trace costs one backward pass per dimension, `chunk` of
    them vectorised together.

    Args:
        score: the score s; each output row must depend on that row of x alone, since all rows are differentiated
            together.
        x: (B, ...), draws of p.
        chunk: number of dimensions per backward pass, at least 1; memory is `chunk` times that of x.

    Returns:
        (B,), of either sign.

    Raises:
        ValueError: if the shape of the score is not that of x, or chunk < 1.

    Source: Hyvarinen (2005), theorem 1 and equation 4.

    >>> implicit(lambda x: -x, torch.tensor([[3.0, 4.0]])).tolist()  # -2 + 25/2
    [10.5]
    """
    check_rows(x=x)
    check_count(chunk=chunk)
    size = x.shape[1:].numel()
    basis = torch.eye(size, dtype=x.dtype, device=x.device).view(size, 1, *x.shape[1:])
    s, curvature = _curvature(score, x, basis.expand(size, *x.shape), chunk)
    return curvature.sum(0) + s.square().flatten(1).sum(1) / 2


def sliced(score: Score, x: Float[Tensor, "b ..."], v: Float[Tensor, "..."]) -> Float[Tensor, " b"]:
    r"""Sliced score matching, $v^T \nabla s(x)\, v + \frac12 (v^T s(x))^2$.

    For slices with $E[v v^T] = I$ its mean over v is `implicit`, so its mean over x ~ p is that of `explicit` minus
    $\frac12 E|\nabla \log p|^2$. It costs one backward pass per slice, in any dimension.

    Args:
        score: the score s, as for `implicit`.
        x: (B, ...), draws of p.
        v: (B, ...) or (M, B, ...): one slice per row, or M slices to average over; see `slices`.

    Returns:
        (B,), of either sign.

    Raises:
        ValueError: if the shape of the score or the slices is not that of x.

    Source: Song et al. (2019), equation 8.

    >>> sliced(lambda x: -x, torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, -1.0]])).tolist()  # -2 + 1/2
    [-1.5]
    """
    v = _slices_of(v, x)
    s, curvature = _curvature(score, x, v, len(v))
    return (curvature + (v * s).flatten(2).sum(2).square() / 2).mean(0)


def sliced_vr(score: Score, x: Float[Tensor, "b ..."], v: Float[Tensor, "..."]) -> Float[Tensor, " b"]:
    r"""Sliced score matching with reduced variance, $v^T \nabla s(x)\, v + \frac12 |s(x)|^2$.

    `sliced` with the exact mean over v of its second term: it has the same mean, and for Rademacher slices and a
    diagonal Jacobian it has no variance.

    Args:
        score: the score s, as for `implicit`.
        x: (B, ...), draws of p.
        v: (B, ...) or (M, B, ...), as for `sliced`.

    Returns:
        (B,), of either sign.

    Raises:
        ValueError: if the shape of the score or the slices is not that of x.

    Source: Song et al. (2019), section 3.2 (SSM-VR); the trace estimator is Hutchinson's (1989).

    >>> sliced_vr(lambda x: -x, torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, -1.0]])).tolist()
    [10.5]
    """
    v = _slices_of(v, x)
    s, curvature = _curvature(score, x, v, len(v))
    return curvature.mean(0) + s.square().flatten(1).sum(1) / 2


def slices(
    x: Float[Tensor, "b ..."], count: int = 1, *, law: str = "rademacher", generator: Rng = None
) -> Float[Tensor, "m b ..."]:
    """Random directions with $E[v v^T] = I$, (M, B, ...).

    Args:
        x: (B, ...), gives shape, device and dtype.
        count: number of directions M, at least 1.
        law: "rademacher" (random signs, the smaller variance) or "gaussian".
        generator: None, one, or one per row.

    Raises:
        ValueError: for count < 1, or an unknown law.

    >>> slices(torch.zeros(2, 3), 5).abs().unique()
    tensor([1.])
    """
    check_rows(x=x)
    check_count(count=count)
    if law not in ("rademacher", "gaussian"):
        raise ValueError(f"slices must be rademacher or gaussian, got {law!r}")
    noise = normal((len(x), count, *x.shape[1:]), generator, like=x).transpose(0, 1)
    return noise if law == "gaussian" else torch.where(noise < 0, -1.0, 1.0).to(x)


def denoising(
    score: Score, x: Float[Tensor, "b ..."], eps: Float[Tensor, "..."], sigma: float | Tensor
) -> Float[Tensor, " b"]:
    r"""Denoising score matching, $\frac12 |s(x + \sigma\epsilon) + \epsilon/\sigma|^2$.

    It fits the *noised* density $q_\sigma(\tilde x) = E_x N(\tilde x; x, \sigma^2 I)$, not p: over x and
    $\epsilon \sim N(0, I)$ its mean is that of `explicit` at q_sigma, plus the constant
    $\frac12 D/\sigma^2 - \frac12 E_q|\nabla \log q_\sigma|^2$. So for p = N(0, 1) and sigma = 1 the optimum is
    -x/2, where p's score is -x.

    Args:
        score: s.
        x: (B, ...), draws of p.
        eps: (B, ...), standard normal noise.
        sigma: standard deviation of the noise, positive; a number or one per row, (B,).

    Returns:
        (B,), at least 0.

    Raises:
        ValueError: if the shape of the score or the noise is not that of x, or sigma is not positive.

    Source: Vincent (2011), equations 9 and 11.

    >>> denoising(lambda x: -x / 2, torch.tensor([[1.0]]), torch.tensor([[1.0]]), 1.0)
    tensor([0.])
    """
    eps, level = _noise(x, eps, sigma)
    return (score_at(score, x + level * eps) + eps / level).square().flatten(1).sum(1) / 2


@checked
def noise_conditional(
    score: NoisyScore, x: Float[Tensor, "b ..."], eps: Float[Tensor, "..."], sigma: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    r"""Denoising score matching at every noise level, $\frac12 |\sigma\, s(x + \sigma\epsilon, \sigma) + \epsilon|^2$.

    `denoising` weighted by sigma^2, which gives all levels the same scale: a score of 0 costs D/2 on average.

    Args:
        score: the score s(x, sigma).
        x: (B, ...), draws of p.
        eps: (B, ...), standard normal noise.
        sigma: (B,), positive.

    Returns:
        (B,), at least 0.

    Raises:
        ValueError: if the shape of the score or the noise is not that of x, or sigma is not (B,) and positive.

    Source: Song & Ermon (2019), equations 5 and 6 with lambda(sigma) = sigma^2.

    >>> x, eps, sigma = torch.ones(1, 1), torch.ones(1, 1), torch.tensor([2.0])
    >>> noise_conditional(lambda z, sigma: torch.zeros_like(z), x, eps, sigma)
    tensor([0.5000])
    """
    eps, level = _noise(x, eps, sigma)
    return (level * score_at(lambda z: score(z, sigma), x + level * eps) + eps).square().flatten(1).sum(1) / 2


def _curvature(score: Score, x: Tensor, v: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """s(x), and v^T grad s(x) v, (M, B), for each of the directions v, (M, B, ...)."""
    check_rows(x=x)
    training = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        s = score_at(score, x)
        if not s.requires_grad:  # a constant
            return s, torch.zeros_like(v).flatten(2).sum(2)
        curvature = []
        for directions in v.split(chunk):
            (pulled,) = torch.autograd.grad(
                s,
                x,
                directions,
                is_grads_batched=True,
                create_graph=training,
                retain_graph=True,
                materialize_grads=True,
            )
            curvature.append((pulled * directions).flatten(2).sum(2))
    return s if training else s.detach(), torch.cat(curvature)


def _slices_of(v: Tensor, x: Tensor) -> Tensor:
    if v.shape[-x.ndim :] != x.shape or v.ndim > x.ndim + 1 or not v.numel():
        raise ValueError(
            f"slices must be (B, ...) or (M, B, ...) with the shape of x, {tuple(x.shape)}, got {tuple(v.shape)}"
        )
    return v.reshape(-1, *x.shape)


def _noise(x: Tensor, eps: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
    """The noise, and sigma reshaped to broadcast against x."""
    if eps.shape != x.shape:
        raise ValueError(f"noise must have the shape of x, {tuple(x.shape)}, got {tuple(eps.shape)}")
    level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if level.shape not in ((), x.shape[:1]):
        raise ValueError(f"sigma must be a number or one per row, {len(x)}, got {tuple(level.shape)}")
    if not torch.compiler.is_compiling() and not bool((level > 0).all()):
        raise ValueError(f"sigma must be positive, got {level.min().item():g}")
    return eps, right_pad(level, x) if level.ndim else level
