"""Penalties on a critic's gradient, tested on critics whose gradient is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from jensen.check.evidence import Evidence, Report, close, mean_is

Critic = Callable[[Tensor], Tensor]
Penalty = Callable[[Critic, Tensor, Tensor], Tensor]
PLACES = ("real", "fake", "between", "anywhere")
EVENTS = ((3,), (2, 3, 2))
NORMS = (0.5, 1.0, 2.0)
DRAWS = 20_000
SEED = 0


def penalty(
    penalty: Penalty, of_norm: Callable[[Tensor], Tensor], *, at: str = "anywhere", tolerance: float = 1e-9
) -> Report:
    r"""Whether a penalty is $h(|\nabla D|)$, on critics whose gradient is known, in double precision.

    On $D(x) = a \cdot x$ the norm, over all axes of an event, is |a| at every point: the penalty is h(|a|) for every
    example, in batches of 1 and of 5, for vectors and for pictures, and its derivative with respect to a is $h'(|a|)\,
    a/|a|$; at a = 0 value and derivative are finite. On $D(x) = |x - c|^2/2$ the norm is |x - c|, which shows where the
    gradient is taken; for a penalty between real and generated points, c at either end and off the line shows that its
    points are uniformly distributed between them. The penalty of an example does not depend on the other examples of
    its batch.

    Args:
        penalty: maps (critic, real, fake) to one number per example (B,), or to the mean of the batch, a scalar. It may
            draw from torch's global generator. The critic returns one logit per example, (B,).
        of_norm: h, elementwise; `lambda g: 10 * (g - 1) ** 2` for WGAN-GP.
        at: where the gradient is taken: "real", "fake", "between" (at $\epsilon x + (1 - \epsilon) G$, with one uniform
            epsilon per example), or "anywhere" if this is not tested.
        tolerance: absolute; "between" is tested within 5 standard errors of 20,000 draws, or of 200 for a batch's mean.

    Raises:
        ValueError: for an unknown `at`, or a penalty of another shape.

    Source: Gulrajani et al. (2017), section 4; Mescheder et al. (2018), equation 9.

    >>> def whole_batch(critic, real, fake):  # the norm of the batch's gradient, not of each example's
    ...     x = real.clone().requires_grad_()
    ...     (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    ...     return (g.norm() - 1).square()
    >>> report = penalty(whole_batch, lambda g: (g - 1) ** 2, at="real")
    >>> print(report.failed[0])
    FAILS: penalty of the critic a x: h(|a|), batch of 5, examples of shape (3,): 12.0557 = 1 (± 1e-09)
    """
    if at not in PLACES:
        raise ValueError(f"at must be one of {', '.join(PLACES)}, got {at!r}")
    return Report.of(_evidence(penalty, of_norm, at, tolerance))


def _evidence(penalty: Penalty, of_norm: Callable[[Tensor], Tensor], at: str, tolerance: float) -> Iterator[Evidence]:
    for event in EVENTS:
        for n in (1, 5):
            yield _on_a_line(penalty, of_norm, event, n, tolerance)
        yield from _derivative(penalty, of_norm, event, tolerance)
    yield _apart(penalty, tolerance)
    if at in ("real", "fake"):
        yield _place(penalty, of_norm, at, tolerance)
    elif at == "between":
        yield from _between(penalty, of_norm)


def _on_a_line(
    penalty: Penalty, of_norm: Callable[[Tensor], Tensor], event: tuple[int, ...], n: int, tolerance: float
) -> Evidence:
    found, exact = [], []
    for norm in NORMS:
        a = _direction(event) * norm
        value = _paid(penalty, _linear(a), *_examples(n, event))
        found.append(value)
        exact.append(of_norm(torch.tensor(norm, dtype=a.dtype)).expand(value.shape))
    claim = f"penalty of the critic a x: h(|a|), batch of {n}, examples of shape {event}"
    return close(claim, torch.stack(exact), torch.stack(found), tolerance)


def _derivative(
    penalty: Penalty, of_norm: Callable[[Tensor], Tensor], event: tuple[int, ...], tolerance: float
) -> Iterator[Evidence]:
    """The derivative of the penalty with respect to the critic's weights a."""
    for norm in (*NORMS, 0.0):
        a = (_direction(event) * norm).requires_grad_()
        value = _paid(penalty, _linear(a), *_examples(4, event)).mean()
        found = _slope(value, a)
        if norm == 0:
            yield close(
                f"penalty and derivative are finite (1) at |a| = 0, examples of shape {event}",
                1.0,
                _finite(found, value),
                0.0,
            )
            continue
        size = torch.tensor(norm, dtype=a.dtype).requires_grad_()
        (slope,) = torch.autograd.grad(of_norm(size), size)
        claim = f"derivative of the penalty with respect to a: h'(|a|) a/|a|, |a| = {norm:g}, examples of shape {event}"
        yield close(claim, slope * _direction(event), found, tolerance)


def _slope(value: Tensor, a: Tensor) -> Tensor:
    """The gradient, or zero if the value does not depend on a."""
    if not value.requires_grad:
        return torch.zeros_like(a)
    return torch.autograd.grad(value, a, allow_unused=True, materialize_grads=True)[0]


def _finite(*values: Tensor) -> Tensor:
    return torch.stack([v.isfinite().all() for v in values]).double()


def _apart(penalty: Penalty, tolerance: float) -> Evidence:
    """The mixed second difference of the mean penalty with respect to two examples is 0 if each penalty depends on its
    own example only.
    """

    def paid(one: Tensor, others: Tensor) -> Tensor:
        x = torch.cat([one, others])
        return _paid(penalty, _cubic, x, x.flip(1)).mean()

    a, b = _examples(5, (3,))
    mixed = paid(a[:1], a[1:]) - paid(b[:1], a[1:]) - paid(a[:1], b[1:]) + paid(b[:1], b[1:])
    return close("the penalty of an example does not depend on the other examples", 0.0, mixed, tolerance)


def _place(penalty: Penalty, of_norm: Callable[[Tensor], Tensor], at: str, tolerance: float) -> Evidence:
    real, fake = _examples(5, (3,))
    x = real if at == "real" else fake
    exact = of_norm(x.norm(dim=1))
    value = _paid(penalty, _half_square, real, fake)
    claim = f"penalty of the critic |x|^2/2: h(|x|) at the {at} examples"
    return close(claim, exact if value.ndim else exact.mean(), value, tolerance)


def _between(penalty: Penalty, of_norm: Callable[[Tensor], Tensor]) -> Iterator[Evidence]:
    """Points between b and b + 2d, identified by their distances from both ends and from a third point."""
    base, along = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64), 2 * _direction((3,))
    whole = _paid(penalty, _cubic, *_examples(4, (3,))).ndim == 0
    runs, n = (DRAWS // 100, 1) if whole else (1, DRAWS)
    real, fake = base.expand(n, 3), (base + along).expand(n, 3)
    share = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]  # every other one is in the middle of a cell
    for name, centre in {
        "at the real example": base,
        "at the generated example": base + along,
        "beside both": base + along / 4 - 1,
    }.items():
        exact = of_norm((base + share * along - centre).norm(dim=1))
        draws = torch.cat([_paid(penalty, _distance(centre), real, fake, k).detach().reshape(-1) for k in range(runs)])
        claim = f"penalty of the critic |x - c|^2/2, c {name}"
        yield mean_is(f"{claim}: mean of h(|x - c|) over uniform epsilon", float(exact[1::2].mean()), draws)
        beyond = torch.maximum(draws - exact.max(), exact.min() - draws).max()
        yield Evidence(
            f"{claim}: excess over the values between real and generated", 0.0, float(beyond), 1e-6, "at most"
        )


def _distance(centre: Tensor) -> Critic:
    return lambda x: _half_square(x - centre)


def _half_square(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1) / 2


def _linear(a: Tensor) -> Critic:
    return lambda x: (x * a).flatten(1).sum(1)


def _cubic(x: Tensor) -> Tensor:
    return (x**3 / 3 + x).flatten(1).sum(1)


def _direction(event: tuple[int, ...]) -> Tensor:
    """A vector of length 1 with different entries."""
    a = torch.arange(1.0, 1 + torch.Size(event).numel(), dtype=torch.float64).reshape(event)
    return a / a.norm()


def _examples(n: int, event: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(SEED)
    real, fake = torch.randn(2, n, *event, dtype=torch.float64, generator=rng)
    return real, fake


def _paid(penalty: Penalty, critic: Critic, real: Tensor, fake: Tensor, seed: int = SEED) -> Tensor:
    """The penalty with fixed random numbers; the state of the global generator is restored."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        value = penalty(critic, real, fake)
    if value.shape not in ((), (len(real),)):
        wanted = f"one number per example, ({len(real)},), or their mean"
        raise ValueError(f"a penalty must be {wanted}, got {tuple(value.shape)}")
    return value
