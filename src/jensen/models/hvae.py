"""Hierarchical latent variable models, inferred bottom-up or top-down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from jensen.core.modes import evaluating
from jensen.core.seeding import Rng, drawing
from jensen.core.shapes import check_count, checked
from jensen.core.types import Measure
from jensen.diffusion import slerp
from jensen.distributions.measure import measure
from jensen.models.chunks import refuse_condition
from jensen.variational.importance import Estimate, log_likelihood
from jensen.variational.posterior import Posterior, check_posterior
from jensen.variational.trace import Layer, Trace, log_prob


class LatentChain(nn.Module, ABC):
    r"""$p(x, z) = p(x | z_1)\, p(z_1 | z_2) \cdots p(z_{L-1} | z_L)\, p(z_L)$; subclasses define q(z | x).

    The constructor runs the parts on one row, and raises if they do not fit together.

    Args:
        decoders: L modules that return distributions: $p(x | z_1)$, then $p(z_l | z_{l+1})$ from the data up.
        prior: module whose `forward()` returns $p(z_L)$.

    Attributes:
        event: shape of one x.
        events: shape of one $z_l$, for each layer.
        measure: whether $p(x | z_1)$ is a mass or a density.
    """

    event: tuple[int, ...]
    events: tuple[tuple[int, ...], ...]
    measure: Measure

    def __init__(self, decoders: Sequence[nn.Module], prior: nn.Module):
        super().__init__()
        self.decoders, self.prior = nn.ModuleList(decoders), prior

    @abstractmethod
    def infer(self, x: Tensor, *, samples: int = 1, reparameterized: bool = True) -> tuple[Layer, ...]:
        """Draw all layers K times for each row of x (B, *event)."""

    @abstractmethod
    def encoding(self) -> list[nn.Parameter]:
        """The parameters of q.

        Raises:
            ValueError: if q shares parameters with p.
        """

    def trace(
        self,
        x: Tensor,
        *,
        samples: int = 1,
        analytic: bool = False,
        reparameterized: bool = True,
        q: Posterior | None = None,
    ) -> Trace:
        """Draw the latents K times for each row of x, as a `jensen.variational.Trace`.

        Args:
            x: (B, *event).
            samples: number of draws K, at least 1.
            analytic: compute a layer's KL in closed form where it is a KL divergence and torch implements it.
            reparameterized: let draws carry a gradient if the family permits it; False: draws have no gradient, for the
                score function.
            q: one distribution per layer, batch (B,), independent of each other, in place of the model's own q(z | x).

        Raises:
            ValueError: for an x of another shape, data outside the decoder's range, samples < 1, or a q that does not
                fit.
        """
        if q is None:
            layers = self.infer(x, samples=samples, reparameterized=reparameterized)
        else:
            self._check(x, samples)
            layers = self.layers(q, len(x), samples, reparameterized)
        terms, closed = zip(*(layer.coordinates(analytic) for layer in layers), strict=True)
        return Trace(
            log_px=self.log_px(x, tuple(layer.z for layer in layers)),
            kl=tuple(term.sum(-1).expand(samples, len(x)) for term in terms),
            log_q=tuple(log_prob(layer.held, layer.z.detach()) for layer in layers),
            analytic=closed,
            pathwise=tuple(reparameterized and layer.q.has_rsample for layer in layers),
            coordinates=tuple(term.expand(samples, len(x), -1) for term in terms),
        )

    def layers(self, q: Posterior, rows: int, samples: int, reparameterized: bool) -> tuple[Layer, ...]:
        """Draw K times from a q with independent layers, for which every term is a KL given the layer above."""
        check_posterior(q, self.events, rows)
        z = [_draw(law, (samples,), reparameterized) for law in q]
        priors = [self.law(layer, above) for layer, above in enumerate((*z[1:], None), start=1)]
        return tuple(Layer(*parts, divergence=True) for parts in zip(z, q, priors, q, strict=True))

    def law(self, layer: int, above: Tensor | None = None) -> Distribution:
        """$p(z_l | z_{l+1})$ for layer l = 1 ... L - 1 given `above`; the prior for l = L."""
        law: Distribution = self.prior() if layer == len(self.decoders) else self.decoders[layer](above)
        return law

    def prior_sample(self, shape: tuple[int, ...], given: tuple[Tensor, ...] = ()) -> tuple[Tensor, ...]:
        """Draws from p(z), one tensor per layer, the layer next to x first.

        Args:
            shape: shape of the draws, which precedes each layer's event shape.
            given: draws of the top layers, which are kept.
        """
        z = list(given)
        for layer in range(len(self.decoders) - len(given), 0, -1):
            z.insert(0, self.law(layer, z[0]).sample() if z else self.law(layer).sample(shape))
        return tuple(z)

    def log_prior(self, z: tuple[Tensor, ...]) -> Tensor:
        """Log p(z) in nats, with the shape of the draws."""
        laws = [self.law(layer, above) for layer, above in enumerate((*z[1:], None), start=1)]
        return torch.stack([log_prob(law, value) for law, value in zip(laws, z, strict=True)]).sum(0)

    def log_px(self, x: Tensor, z: tuple[Tensor, ...]) -> Tensor:
        """Log p(x | z) in nats, (K, B), for x (B, *event).

        Raises:
            ValueError: for an x of another shape, or data outside the decoder's range.
        """
        self._check(x)
        return log_prob(self.decoders[0](z[0]), x)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z_1), in evaluation mode."""
        with evaluating(self):
            mean: Tensor = self.decoders[0](z).mean
        return mean

    @checked
    def codes(self, x: Float[Tensor, "b ..."]) -> Tensor:
        """Means of q(z_L | x), the top layer, (B, *event of it), in evaluation mode.

        If q depends on other layers, it is given one draw of these.
        """
        with evaluating(self):
            top = self.infer(x)[-1]
        return top.q.mean.expand(top.z.shape)[0]

    def from_codes(self, z: Tensor) -> Tensor:
        """The mean of p(x | z_1) given z_L, (B, *event), with the layers between at their means; in evaluation mode."""
        with evaluating(self):
            for layer in range(len(self.decoders) - 1, 0, -1):
                z = self.law(layer, z).mean
        return self.decode(z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x | z_1) given one draw of q(z_1 | x), (B, *event), in evaluation mode."""
        with evaluating(self):
            z = self.infer(x)[0].z[0]
        return self.decode(z)

    def interpolate(self, first: torch.Generator, second: torch.Generator, n: int) -> Tensor:
        """Means of x along the great circle from one draw of p(z_L) to another, (n, *event), including both ends.

        Raises:
            ValueError: for n < 2, or one-hot latents.
        """
        return self.from_codes(between(self.prior(), first, second, n))

    def sample(self, n: int, *, cond: Tensor | None = None, generator: Rng = None, mean: bool = False) -> Tensor:
        """Draw n samples x, (n, *event), in evaluation mode.

        Args:
            n: number of samples, at least 1.
            cond: must be None.
            generator: None, one, or n of them, one per row.
            mean: return the means of p(x | z) for the same z, instead of draws from it.

        Raises:
            ValueError: for n < 1, a condition, an improper prior, or a number of generators other than n.
        """
        return draw_rows(self, lambda rows: self.decoders[0](self.prior_sample((rows,))[0]), n, cond, generator, mean)

    def log_likelihood(
        self,
        x: Tensor,
        *,
        cond: Tensor | None = None,
        samples: int = 5000,
        proposal: str = "encoder",
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Log p(x) by importance sampling, with standard errors: `jensen.variational.log_likelihood`.

        Raises:
            ValueError: for a condition, samples < 1, an unknown proposal, or an x of another shape or out of range.
        """
        refuse_condition(cond)
        self._check(x, samples)
        return log_likelihood(self, x, samples=samples, proposal=proposal, generator=generator)

    def _check(self, x: Tensor, samples: int = 1) -> None:
        expect_rows(x, self.event)
        expect_samples(samples)

    @torch.no_grad()
    def _try(self) -> None:
        """Run every part on one row, and store the shapes."""
        like = next(chain(self.parameters(), self.buffers()), torch.zeros(()))
        with evaluating(self), drawing(torch.Generator(like.device).manual_seed(0)):
            events = [tuple(self.prior().event_shape)]
            z = like.new_zeros(1, 1, *events[0])  # one draw of one row
            for decoder in reversed(self.decoders):
                law = _fitting("decoder", decoder, z, 2)
                z = law.sample()
                events.insert(0, tuple(law.event_shape))
            self.event, self.events = events[0], tuple(events[1:])
            self.measure = measure(law)
            self._try_q(z[0])

    @abstractmethod
    def _try_q(self, x: Tensor) -> None:
        """Raise if q does not fit; x is one row."""

    def _expect(self, layer: int, law: Distribution) -> None:
        if tuple(law.event_shape) != self.events[layer]:
            raise ValueError(
                f"layer {layer + 1} must have the same latents everywhere, got shape {self.events[layer]} in the "
                f"decoder or prior and {tuple(law.event_shape)} in the encoder"
            )


class HVAE(LatentChain):
    r"""A hierarchy with bottom-up inference: $q(z | x) = q(z_1 | x)\, q(z_2 | z_1) \cdots q(z_L | z_{L-1})$.

    Only the top layer's term is a KL divergence. The others, $E_q \log q(z_l | z_{l-1}) / p(z_l | z_{l+1})$, depend on
    a $z_{l+1}$ that is drawn given $z_l$, and may be negative.

    Args:
        encoders: L modules that return distributions: $q(z_1 | x)$, then $q(z_{l+1} | z_l)$.
        decoders: L modules: $p(x | z_1)$, then $p(z_l | z_{l+1})$.
        prior: module whose `forward()` returns $p(z_L)$.

    Raises:
        ValueError: if there are not L of both, or the parts do not fit together.

    Source: Burda et al. (2016), section 2.

    >>> from jensen.distributions import Conditional, DiagonalGaussian, GaussianPrior
    >>> def part(a, b):
    ...     return Conditional(nn.Linear(a, 2 * b), DiagonalGaussian())
    >>> model = HVAE([part(5, 3), part(3, 2)], [part(3, 5), part(2, 3)], GaussianPrior(2))
    >>> trace = model.trace(torch.zeros(7, 5), samples=4, analytic=True)
    >>> trace.analytic, trace.log_px.shape
    ((False, True), torch.Size([4, 7]))
    """

    def __init__(self, encoders: Sequence[nn.Module], decoders: Sequence[nn.Module], prior: nn.Module):
        super().__init__(decoders, prior)
        if not len(encoders) == len(decoders) > 0:
            raise ValueError(
                f"there must be as many encoders as decoders, at least one, got {len(encoders)} and {len(decoders)}"
            )
        self.encoders = nn.ModuleList(encoders)
        self._try()

    def infer(self, x: Tensor, *, samples: int = 1, reparameterized: bool = True) -> tuple[Layer, ...]:
        self._check(x, samples)
        z: list[Tensor] = []
        laws: list[Distribution] = []
        held: list[Distribution] = []
        for encoder in self.encoders:
            laws.append(encoder(z[-1] if z else x))
            held.append(_hold(encoder, z[-1], laws[-1], reparameterized) if z else laws[-1])
            z.append(_draw(laws[-1], () if z else (samples,), reparameterized))
        priors = [self.law(layer, above) for layer, above in enumerate((*z[1:], None), start=1)]
        last = len(z) - 1
        return tuple(
            Layer(*parts, divergence=layer == last)
            for layer, parts in enumerate(zip(z, laws, priors, held, strict=True))
        )

    def encoding(self) -> list[nn.Parameter]:
        return _alone(self, self.encoders)

    def _try_q(self, x: Tensor) -> None:
        z = x
        for layer, encoder in enumerate(self.encoders):
            law = _fitting("encoder", encoder, z, 2 if layer else 1)
            self._expect(layer, law)
            z = law.sample(() if layer else (1,))


class LadderVAE(LatentChain):
    r"""A hierarchy with top-down inference, which uses the generative path.

    A deterministic pass up, $h_l = \mathrm{up}_l(h_{l-1})$ with $h_0 = x$, gives a Gaussian
    $\hat q_l = N(\hat\mu_l, \hat\sigma_l^2)$ at every level; the pass down multiplies it with the prior:
    $q(z_l | z_{l+1}, x) \propto \hat q_l(z_l)\, p(z_l | z_{l+1})$ and $q(z_L | x) = \hat q_L$. Every term is a KL given
    the layers above. In a linear-Gaussian chain the true posterior has this form if the coordinates of each layer are
    independent given x and the layer above: with one latent per layer, or if $W^\top \Sigma^{-1} W$ is diagonal for the
    weights W and noise $\Sigma$ of every layer. With correlated coordinates no ladder is exact.

    Args:
        ups: L modules, tensor to tensor.
        heads: L modules that return diagonal Gaussians: $\hat q_l$ given $h_l$.
        decoders: L modules: $p(x | z_1)$, then diagonal Gaussians $p(z_l | z_{l+1})$.
        prior: module whose `forward()` returns $p(z_L)$.

    Raises:
        ValueError: if there are not L of each, the parts do not fit, or a factor is not a diagonal Gaussian.

    Source: Sonderby et al. (2016), equations 8 to 17.

    >>> from jensen.distributions import Conditional, DiagonalGaussian, GaussianPrior
    >>> def part(a, b):
    ...     return Conditional(nn.Linear(a, 2 * b), DiagonalGaussian())
    >>> ups = [nn.Linear(5, 4), nn.Linear(4, 4)]
    >>> model = LadderVAE(ups, [part(4, 3), part(4, 2)], [part(3, 5), part(2, 3)], GaussianPrior(2))
    >>> model.trace(torch.zeros(7, 5), analytic=True).analytic
    (True, True)
    """

    def __init__(
        self, ups: Sequence[nn.Module], heads: Sequence[nn.Module], decoders: Sequence[nn.Module], prior: nn.Module
    ):
        super().__init__(decoders, prior)
        if not len(ups) == len(heads) == len(decoders) > 0:
            raise ValueError(
                f"there must be as many ups and heads as decoders, got {len(ups)}, {len(heads)} and {len(decoders)}"
            )
        self.ups, self.heads = nn.ModuleList(ups), nn.ModuleList(heads)
        self._try()

    def _read(self, x: Tensor) -> list[Distribution]:
        """The Gaussians of all levels, from the data up."""
        read, h = [], x
        for up, head in zip(self.ups, self.heads, strict=True):
            h = up(h)
            read.append(head(h))
        return read

    def infer(self, x: Tensor, *, samples: int = 1, reparameterized: bool = True) -> tuple[Layer, ...]:
        self._check(x, samples)
        read = self._read(x)
        q = read.pop()
        layers = [Layer(_draw(q, (samples,), reparameterized), q, self.prior(), q, divergence=True)]
        while read:
            seen, above = read.pop(), layers[0].z
            p = self.law(len(read) + 1, above)
            q = _product(seen, p)
            held = q
            if reparameterized and above.requires_grad:
                held = _product(seen, self.law(len(read) + 1, above.detach()))
            layers.insert(0, Layer(_draw(q, (), reparameterized), q, p, held, divergence=True))
        return tuple(layers)

    def encoding(self) -> list[nn.Parameter]:
        if len(self.decoders) > 1:
            raise ValueError(
                "gradient must not be dreg for a ladder, whose q and p share the parameters of the top-down pass"
            )
        return _alone(self, nn.ModuleList([self.ups, self.heads]))

    def _try_q(self, x: Tensor) -> None:
        h = x
        for layer, (up, head) in enumerate(zip(self.ups, self.heads, strict=True)):
            h = up(h)
            law = _fitting("head", head, h, 1)
            self._expect(layer, law)
            _need_gaussian(law)
        z = torch.zeros(1, *self.events[-1]).to(h)
        for layer in range(len(self.decoders) - 1, 0, -1):
            law = self.law(layer, z)
            _need_gaussian(law)
            z = law.mean


@torch.no_grad()
def draw_rows(
    model: nn.Module, law: Callable[[int], Distribution], n: int, cond: Tensor | None, generator: Rng, mean: bool
) -> Tensor:
    """Draw n samples in evaluation mode, or their means; `law` maps n to the distribution p(x | z) of n draws z."""
    check_count(n=n)
    refuse_condition(cond)
    if isinstance(generator, Sequence):
        if len(generator) != n:
            raise ValueError(f"generators must be {n}, one per row, got {len(generator)}")
        return torch.cat([draw_rows(model, law, 1, None, one, mean) for one in generator])
    with evaluating(model), drawing(generator):
        given = law(n)
        x: Tensor = given.mean if mean else given.sample()
        return x


@torch.no_grad()
def between(prior: Distribution, first: torch.Generator, second: torch.Generator, n: int) -> Tensor:
    """Latents from a draw of one generator to that of another: on a great circle around the mean, (n, *event)."""
    if n < 2:
        raise ValueError(f"n must be at least 2, got {n}")
    if not prior.has_rsample:
        raise ValueError(
            "interpolation needs continuous latents with a proper prior: there are no points between two classes"
        )
    with drawing(first):
        a = prior.sample() - prior.mean
    with drawing(second):
        b = prior.sample() - prior.mean
    share = torch.linspace(0, 1, n).to(a)
    if a.numel() == 1:  # in one dimension, a straight line
        return torch.lerp(a, b, share[:, None]) + prior.mean
    return slerp(a, b, share) + prior.mean


def expect_rows(x: Tensor, event: tuple[int, ...]) -> None:
    """Raise unless x consists of rows with the event's shape."""
    if x.ndim == 0 or tuple(x.shape[1:]) != event:
        raise ValueError(f"x must be rows of shape {event}, got shape {tuple(x.shape)}")


def expect_samples(samples: int) -> None:
    check_count(samples=samples)


def _draw(law: Distribution, shape: tuple[int, ...], reparameterized: bool) -> Tensor:
    z: Tensor = law.rsample(shape) if reparameterized and law.has_rsample else law.sample(shape)
    return z


def _hold(encoder: nn.Module, below: Tensor, law: Distribution, reparameterized: bool) -> Distribution:
    """The law given a detached `below`; unchanged if `below` has no gradient or only the score function trains it."""
    if not (below.requires_grad and reparameterized and law.has_rsample):
        return law
    held: Distribution = encoder(below.detach())
    return held


def _product(a: Distribution, b: Distribution) -> Distribution:
    """The normalised product of two diagonal Gaussians."""
    precision = 1 / a.variance + 1 / b.variance
    mean = (a.mean / a.variance + b.mean / b.variance) / precision
    return Independent(Normal(mean, precision.rsqrt(), validate_args=False), len(a.event_shape), validate_args=False)


def _need_gaussian(law: Distribution) -> None:
    if not (isinstance(law, Independent) and isinstance(law.base_dist, Normal)):
        raise ValueError(f"factors of a ladder must be diagonal Gaussians, got {type(law).__name__}")


def _fitting(name: str, part: nn.Module, given: Tensor, axes: int) -> Distribution:
    """The part's distribution on one row, given with this number of batch axes."""
    event = tuple(given.shape[axes:])
    try:
        law: Distribution = part(given)
    except RuntimeError as error:
        raise ValueError(f"the {name} cannot take events of shape {event} after {axes} batch axes: {error}") from error
    if tuple(law.batch_shape) != (1,) * axes:
        raise ValueError(
            f"the {name} must return one event for each of {(1,) * axes} rows, got batch {tuple(law.batch_shape)} "
            f"and event {tuple(law.event_shape)}: its family determines which axes are the event"
        )
    return law


def _alone(model: LatentChain, encoders: nn.Module) -> list[nn.Parameter]:
    parameters = [p for p in encoders.parameters() if p.requires_grad]
    shared = {*model.decoders.parameters(), *model.prior.parameters()} & set(parameters)
    if shared:
        name = next(name for name, p in model.named_parameters() if p in shared)
        raise ValueError(f"q and p must not share parameters, got {name} in both")
    return parameters
