"""Mean-field inference for a Bayesian mixture of Gaussians: on all data, or by natural gradients on batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Dirichlet, kl_divergence

from jensen.core.seeding import Rng, drawing
from jensen.core.types import Likelihood
from jensen.variational.mean_field.cavi import Ascent, coordinate_ascent, rounding
from jensen.variational.mean_field.normal_wishart import LOG_2PI, NormalWishart
from jensen.variational.mean_field.quadratic import (
    Frame,
    features,
    forms,
    is_definite,
    normalised,
    row_chunks,
    unpacked,
)
from jensen.variational.mean_field.seeds import best_centres, nearest


@dataclass(frozen=True)
class MixturePrior:
    r"""$\pi \sim \mathrm{Dir}(a, \dots, a)$, and a shared Normal-Wishart prior of each component's mean and precision.

    Attributes:
        concentration: a, positive; values below 1 favour empty components.
        component: one NormalWishart, without batch axes.

    Raises:
        ValueError: if component has batch axes, concentration or strength is not positive, degrees is not above D - 1,
            or scatter is not symmetric and positive definite beyond rounding.
    """

    concentration: float
    component: NormalWishart

    def __post_init__(self) -> None:
        law = self.component
        if law.mean.ndim != 1:
            raise ValueError(f"component must be a single NormalWishart, of mean (D,), got {tuple(law.mean.shape)}")
        if not self.concentration > 0 or not bool(law.strength > 0):
            raise ValueError(
                f"concentration and strength must be positive, got {self.concentration} and {float(law.strength)}"
            )
        if not bool(law.degrees > law.dims - 1):
            raise ValueError(f"degrees must be above D - 1 = {law.dims - 1}, got {float(law.degrees)}")
        if not is_definite(law.scatter):
            raise ValueError("scatter must be symmetric and positive definite beyond rounding, got a singular one")

    @classmethod
    def around(cls, x: Tensor, components: int) -> MixturePrior:
        """A weak prior from the data: a = 1/K, m = mean of x, kappa = 1, nu = D, S = covariance of x (over N - 1).

        These are scikit-learn's defaults, in float64.

        Args:
            x: (N, D), N at least 2.
            components: number of components K.

        Raises:
            ValueError: if x is not (N, D) with N at least 2, components is below 1, or x varies in fewer than D
                directions by more than rounding, in which case the likelihood is unbounded.

        >>> MixturePrior.around(torch.tensor([[0.0], [2.0]]), components=4).component.scatter
        tensor([[2.]], dtype=torch.float64)
        """
        if x.ndim != 2 or len(x) < 2 or not x.is_floating_point() or not bool(torch.isfinite(x).all()):
            raise ValueError(f"x must be finite floats (N, D) with N at least 2, got {x.dtype} {tuple(x.shape)}")
        _at_least_one("components", components)
        mean, covariance = _mean_and_covariance(x)
        half_spacing = torch.finfo(x.dtype).eps / 2 * x.abs().amax(0).double()
        if not is_definite(covariance, half_spacing):
            raise ValueError(
                f"x must vary in all its {x.shape[1]} directions, got data in a lower-dimensional plane: is a column "
                "constant or a sum of others, or are there too few rows?"
            )
        one = mean.new_ones(())
        return cls(1 / components, NormalWishart(mean, one, one * x.shape[1], covariance * len(x) / (len(x) - 1)))


@dataclass(frozen=True)
class MixtureFactors:
    r"""$q(\pi) = \mathrm{Dir}(a_1, \dots, a_K)$ and $q(\mu_k, \Lambda_k)$, the factors of the parameters.

    Attributes:
        concentration: (K,), the parameters $a_k$.
        components: a NormalWishart of batch (K,).
    """

    concentration: Float[Tensor, " k"]
    components: NormalWishart

    @classmethod
    def given(cls, prior: MixturePrior, sums: Float[Tensor, "k f"]) -> MixtureFactors:
        """The optimal factors given the responsibilities r, which enter only by the sums of r, r y and r y y'."""
        count, first, second = unpacked(sums, prior.component.dims)
        return cls(prior.concentration + count, prior.component.given(count, first, second))

    def kl(self, prior: MixturePrior) -> Tensor:
        """KL(q(pi, mu, Lambda) || p(pi, mu, Lambda)) in nats, ()."""
        a = self.concentration
        weights: Tensor = kl_divergence(Dirichlet(a), Dirichlet(torch.full_like(a, prior.concentration)))
        return weights + self.components.kl(prior.component).sum()

    @cached_property
    def expected_log_joint(self) -> Tensor:
        r"""$E_q[\log \pi_k + \log N(y; \mu_k, \Lambda_k^{-1})]$, a quadratic form in y with F coefficients, (K, F)."""
        law, a = self.components, self.concentration
        log_weights = torch.digamma(a) - torch.digamma(a.sum())
        constant = log_weights + 0.5 * (law.expected_log_det - law.dims * (LOG_2PI + 1 / law.strength))
        return forms(constant, law.mean, -0.5 * law.degrees[:, None, None] * law.scatter_inverse)

    @cached_property
    def distance(self) -> Tensor:
        r"""$(y - m_k)^\top S_k^{-1} (y - m_k)$, a quadratic form in y with F coefficients, (K, F)."""
        law = self.components
        return forms(torch.zeros_like(law.strength), law.mean, law.scatter_inverse)

    def log_predictive(self, distance: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
        r"""$\log E[\pi_k] + \log \mathrm{St}(y; m_k, \tfrac{\kappa+1}{\kappa(\nu-D+1)} S_k, \nu-D+1)$ from `distance`.

        Source: Bishop (2006), equations 10.81 and 10.82.
        """
        law, d, nu = self.components, self.components.dims, self.components.degrees
        shrink, weights = law.strength / (law.strength + 1), self.concentration / self.concentration.sum()
        constant = torch.lgamma((nu + 1) / 2) - torch.lgamma((nu + 1 - d) / 2) - 0.5 * d * math.log(math.pi)
        constant = constant + 0.5 * (d * shrink.log() - law.log_det_scatter) + weights.log()
        shrink, half, constant = (v[:, None].to(distance.dtype) for v in (shrink, (nu + 1) / 2, constant))
        return constant - half * torch.log1p(shrink * distance.clamp_min(0))


@dataclass(frozen=True)
class MixtureState:
    """All factors between two updates of coordinate ascent.

    Attributes:
        factors: the factors of the parameters.
        sums: (K, F), the sums of r, r y and r y y' with the responsibilities r.
        entropy: entropy of the responsibilities, summed over the data, nats.
    """

    factors: MixtureFactors
    sums: Float[Tensor, "k f"]
    entropy: Float[Tensor, ""]

    def elbo(self, prior: MixturePrior) -> Tensor:
        r"""$E_q \log p(y, z \mid \theta) + H(q(z)) - \mathrm{KL}(q(\theta) \| p(\theta))$ in nats, ().

        The first term is linear in the sums, so that the bound for any factors can be computed without the data.
        """
        return (self.sums * self.factors.expected_log_joint).sum() + self.entropy - self.factors.kl(prior)


@dataclass(frozen=True)
class RobbinsMonro:
    r"""The step size $\rho_t = (t + \tau)^{-\kappa}$ of step t = 1, 2, ...

    Attributes:
        delay: tau, at least 0; reduces the first steps.
        forgetting: kappa, in (0.5, 1], where the sum of the steps is infinite and that of their squares finite.

    Raises:
        ValueError: if delay or forgetting is out of range.

    Source: Hoffman, Blei, Wang & Paisley (2013), equation 26; Robbins & Monro (1951).

    >>> RobbinsMonro(delay=0.0, forgetting=1.0)(4)
    0.25
    """

    delay: float = 1.0
    forgetting: float = 0.7

    def __post_init__(self) -> None:
        if not self.delay >= 0 or not 0.5 < self.forgetting <= 1:
            raise ValueError(
                f"delay must be at least 0 and forgetting in (0.5, 1], got {self.delay} and {self.forgetting}"
            )

    def __call__(self, step: int) -> float:
        rate: float = (step + self.delay) ** -self.forgetting
        return rate


class GaussianMixtureVI(nn.Module):
    r"""The mean-field posterior of a Bayesian mixture of K Gaussians with full covariances.

    $\pi \sim \mathrm{Dir}(a)$, $\Lambda_k \sim W(\nu, S^{-1})$, $\mu_k \sim N(m, (\kappa \Lambda_k)^{-1})$,
    $z_n \sim \pi$, $x_n \sim N(\mu_{z_n}, \Lambda_{z_n}^{-1})$, and
    $q = q(\pi) \prod_k q(\mu_k, \Lambda_k) \prod_n q(z_n)$. The optimal q(pi) and q(mu, Lambda) are conjugate to the
    prior and depend on the data only through the sums of r, r x and r x x' with the responsibilities r: these (K, F)
    sums are the whole state. `fit` replaces them by the sums over all data; `natural_step` moves them part of the way
    to those of a batch, scaled to the size of the data. Responsibilities are stored only for one chunk of rows.

    Sums, bounds and factors are in float64, passes over the data in the dtype of the data. In float32 they take half
    the time, and log-densities have errors of about 1e-6 times the squared ratio of the data's spread to the width of
    the narrowest component: if that width is below a hundredth of the spread, use float64.

    Args:
        components: number of components K, at least 1.
        prior: prior of the parameters; `MixturePrior.around(x, components)` gives a weak one from data.

    Raises:
        ValueError: if components is below 1.

    Source: Attias (2000); Bishop (2006), section 10.2; the batches are Hoffman et al. (2013).

    >>> x = torch.cat([torch.randn(200, 1) - 5, torch.randn(100, 1) + 5])
    >>> mixture = GaussianMixtureVI(2, MixturePrior.around(x, 2))
    >>> ascent = mixture.fit(x, generator=torch.Generator().manual_seed(0))
    >>> mixture.factors.concentration.sort().values.int()  # the counts, and 1/2 of the prior
    tensor([100, 200], dtype=torch.int32)
    """

    concentration: Tensor
    mean: Tensor
    strength: Tensor
    degrees: Tensor
    scatter: Tensor
    shift: Tensor
    matrix: Tensor
    sums: Tensor

    def __init__(self, components: int, prior: MixturePrior):
        super().__init__()
        _at_least_one("components", components)
        law, dims = prior.component, prior.component.dims
        frame = Frame.whitening(law.mean.double(), law.scatter.double() / law.degrees)
        for name, value in {
            "concentration": torch.tensor(prior.concentration),
            "mean": law.mean,
            "strength": law.strength,
            "degrees": law.degrees,
            "scatter": law.scatter,
            "shift": frame.shift,
            "matrix": frame.matrix,
            "sums": torch.zeros(components, (dims + 1) * (dims + 2) // 2),
        }.items():
            self.register_buffer(name, value.to(law.mean.device, torch.float64))

    # Posterior and predictive distributions -----------------------------------------------------------------------

    @property
    def prior(self) -> MixturePrior:
        return MixturePrior(
            float(self.concentration), NormalWishart(self.mean, self.strength, self.degrees, self.scatter)
        )

    @property
    def factors(self) -> MixtureFactors:
        """q(pi) and q(mu, Lambda); those of the prior before any data."""
        found, inverse = self._factors, torch.linalg.inv(self.matrix)
        return replace(found, components=found.components.moved(self.shift, inverse))

    def responsibilities(self, x: Tensor, *, chunk: int | None = None) -> Float[Tensor, "b k"]:
        r"""The optimal q(z_n), (B, K): $r_{nk} \propto \exp E_q[\log \pi_k + \log N(x_n; \mu_k, \Lambda_k^{-1})]$."""
        weights = self._factors.expected_log_joint.to(x.dtype)
        return self._per_row(x, lambda phi: torch.softmax(weights @ phi, 0), chunk).T

    def posterior(self, x: Tensor, *, chunk: int | None = None) -> Categorical:
        """p(z|x, data), a Categorical of batch (B,) and K values, under the predictive density."""
        return Categorical(logits=self._per_row(x, self._log_joint(x.dtype), chunk).T)

    def log_prob(self, x: Tensor, *, chunk: int | None = None) -> Float[Tensor, " b"]:
        r"""The predictive $\log \int p(x | \theta)\, q(\theta)\, d\theta$ in nats, (B,): a mixture of Student's t.

        Args:
            x: (B, D); differentiable.
            chunk: number of rows processed at a time; by default the number that is fastest on the device.

        Raises:
            ValueError: if x is not (B, D), or chunk is below 1.
        """
        log_joint, log_det = self._log_joint(x.dtype), self._frame.log_det.to(x.dtype)
        return self._per_row(x, lambda phi: log_joint(phi).logsumexp(0) + log_det, chunk)

    def log_likelihood(
        self, x: Tensor, *, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Likelihood:
        """`log_prob`, exact for the predictive density."""
        return Likelihood(self.log_prob(x), "exact", "density")

    def rescaled(self, scale: Float[Tensor, " d"]) -> GaussianMixtureVI:
        r"""The posterior of x = scale u, given this posterior of u: $\log p(x) = \log p(u) - \sum_d \log
        \mathrm{scale}_d$.

        k-means, which initialises a fit, compares columns in their units: fit data whose columns have different scales
        in standard units, then rescale.

        Raises:
            ValueError: unless scale is (D,) and positive.

        >>> u = torch.randn(50, 2)
        >>> mixture = GaussianMixtureVI(1, MixturePrior.around(u, 1))
        >>> _ = mixture.fit(u)
        >>> x = u * torch.tensor([10.0, 1.0])
        >>> gap = mixture.log_prob(u) - mixture.rescaled(torch.tensor([10.0, 1.0])).log_prob(x)
        >>> torch.allclose(gap, torch.tensor(10.0).log(), atol=1e-4)
        True
        """
        if scale.shape != self.mean.shape or not bool((scale > 0).all()):
            raise ValueError(f"scale must be {len(self.mean)} positive numbers, got {scale.tolist()}")
        scale = scale.to(self.mean)
        prior = replace(self.prior, component=self.prior.component.moved(torch.zeros_like(scale), scale.diag()))
        made = GaussianMixtureVI(len(self.sums), prior)
        made.shift, made.matrix, made.sums = self.shift * scale, self.matrix / scale[:, None], self.sums.clone()
        return made

    def sample(self, n: int, *, cond: Tensor | None = None, generator: Rng = None) -> Float[Tensor, "n d"]:
        """Draw n samples from the predictive density, float64, with one generator or one per row.

        Raises:
            ValueError: if the number of generators is not n.
        """
        law, weights = self.factors.components, self.factors.concentration
        nu = law.degrees - law.dims + 1
        scale = ((law.strength + 1) / law.strength).sqrt()[:, None, None] * law.tril

        def drawn(rows: int, rng: torch.Generator | None) -> Tensor:
            with drawing(rng):
                k = Categorical(weights / weights.sum()).sample((rows,))
                noise = torch.randn(rows, law.dims, dtype=scale.dtype, device=scale.device)
                spread = torch.distributions.Chi2(nu[k]).sample()
            return law.mean[k] + (scale[k] @ noise[..., None])[..., 0] / spread.sqrt()[:, None]

        if not isinstance(generator, Sequence):
            return drawn(n, generator)
        if len(generator) != n:
            raise ValueError(f"generators must be one per row, {n}, got {len(generator)}")
        return torch.cat([drawn(1, one) for one in generator])

    @torch.no_grad()
    def elbo(self, x: Tensor, *, chunk: int | None = None) -> Float[Tensor, ""]:
        r"""The bound on $\log p(x_1, \dots, x_N)$ with optimal responsibilities and all constants, in nats.

        $\sum_n \log \sum_k \exp E_q[\log \pi_k + \log N(x_n; \mu_k, \Lambda_k^{-1})]
        - \mathrm{KL}(q(\theta) \| p(\theta))$.

        Args:
            x: (N, D), all the data.
            chunk: as in `log_prob`.
        """
        x = self._checked(x, chunk)
        return self._pass(x, self._factors, chunk)[1] + len(x) * self._frame.log_det - self._factors.kl(self._prior)

    # Inference ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(
        self,
        x: Tensor,
        responsibilities: Tensor | None = None,
        *,
        rows: int = 20_000,
        tries: int = 5,
        generator: torch.Generator | None = None,
        chunk: int | None = None,
    ) -> None:
        """Initialise on these data, discarding the current state.

        Args:
            x: (N, D).
            responsibilities: (N, K), at least 0, with rows that sum to 1; if None, each row belongs to its nearest
                centre after k-means++ and ten rounds of k-means on a random subset, in the units of the data.
            rows: size of the subset.
            tries: number of runs of k-means, of which the best is kept.
            generator: random generator for the random draws.
            chunk: as in `log_prob`.

        Raises:
            ValueError: if the shapes of x or responsibilities do not match, or responsibilities are not probabilities.
        """
        x, size = self._checked(x, chunk), len(x)
        _at_least_one("rows", rows)
        _at_least_one("tries", tries)
        frame = Frame.whitening(*_mean_and_covariance(x))
        self.shift, self.matrix = frame.shift, frame.matrix
        if responsibilities is None:
            x = x[_shuffled(size, generator)[:rows].to(x.device)]
            centred = x - frame.shift.to(x.dtype)
            centres = best_centres(centred, len(self.sums), tries=tries, rounds=10, generator=generator)
            labels = nearest(centred, centres)
            responsibilities = torch.nn.functional.one_hot(labels, len(self.sums)).to(x.dtype)
        if responsibilities.shape != (len(x), len(self.sums)) or not _are_probabilities(responsibilities):
            raise ValueError(
                f"responsibilities must be probabilities of shape {(len(x), len(self.sums))}, "
                f"got {tuple(responsibilities.shape)}"
            )
        found = torch.zeros_like(self.sums)
        for part in row_chunks(x, chunk):
            found += responsibilities[part].to(x.dtype).T @ features(frame(x[part])).T
        self.sums = found * (size / len(x))

    @torch.no_grad()
    def fit(
        self,
        x: Tensor,
        *,
        sweeps: int = 200,
        tolerance: float = 1e-6,
        generator: torch.Generator | None = None,
        on_sweep: Callable[[int, float], object] | None = None,
        chunk: int | None = None,
    ) -> Ascent[MixtureState]:
        """Coordinate ascent on all data, from the current state, or from `start` if there is none.

        A sweep updates the factors of the parameters, then those of the assignments, in one pass over the data. The
        last bound returned is that of the final state.

        Args:
            x: (N, D).
            sweeps: maximum number of sweeps; one more pass computes the bound at the start.
            tolerance: in nats per datum; a sweep that gains less is the last one.
            generator: random generator for `start`.
            on_sweep: called after each sweep with its number and the bound.
            chunk: as in `log_prob`.

        Returns:
            The factors in the coordinates of the mixture, and the bound after every update.

        Raises:
            ValueError: if x is not (N, D) or not finite, or a number is out of range.
        """
        x = self._started(x, generator, chunk)
        prior, constant = self._prior, len(x) * self._frame.log_det

        def assignments(state: MixtureState) -> MixtureState:
            sums, log_normaliser = self._pass(x, state.factors, chunk)
            return MixtureState(state.factors, sums, log_normaliser - (sums * state.factors.expected_log_joint).sum())

        def parameters(state: MixtureState) -> MixtureState:
            self.sums = state.sums
            return replace(state, factors=self._factors)

        return coordinate_ascent(
            assignments(MixtureState(self._factors, self.sums, self.sums.new_zeros(()))),
            (parameters, assignments),
            lambda state: state.elbo(prior) + constant,
            sweeps=sweeps,
            tolerance=tolerance * len(x),
            slack=rounding(x.dtype),
            on_sweep=on_sweep,
        )

    @torch.no_grad()
    def natural_step(self, batch: Tensor, size: int, rate: float, *, chunk: int | None = None) -> Float[Tensor, ""]:
        r"""Move the natural parameters by `rate` times the natural gradient of the bound, estimated on a batch.

        $\lambda \leftarrow (1 - \rho)\lambda + \rho\,(\lambda_0 + \tfrac NB \sum_{n \in B} E_q[t(x_n, z_n)])$; since
        the prior's part $\lambda_0$ is constant, only the sums change.

        Args:
            batch: (B, D), drawn uniformly from the data.
            size: N, the number of data.
            rate: rho, in (0, 1]; 1 on the whole data is a sweep of `fit`.
            chunk: as in `log_prob`.

        Returns:
            An unbiased estimate of the bound before the step, nats.

        Raises:
            ValueError: if `start` was not called, batch is not (B, D) or not finite, or size or rate are out of range.

        Source: Hoffman et al. (2013), equations 22, 25 and 33.
        """
        batch = self._checked(batch, chunk)
        if not bool(self.sums.any()):
            raise ValueError("the mixture must be initialised by start first: otherwise equal components stay equal")
        if size < len(batch) or not 0 < rate <= 1:
            raise ValueError(f"size must be at least {len(batch)} and rate in (0, 1], got {size} and {rate}")
        scale, factors = size / len(batch), self._factors
        sums, log_normaliser = self._pass(batch, factors, chunk)
        self.sums = torch.lerp(self.sums, scale * sums, rate)
        return scale * log_normaliser + size * self._frame.log_det - factors.kl(self._prior)

    @torch.no_grad()
    def fit_stochastic(
        self,
        x: Tensor,
        *,
        steps: int,
        batch: int = 4096,
        rate: Callable[[int], float] | None = None,
        generator: torch.Generator | None = None,
        on_step: Callable[[int, float], object] | None = None,
        chunk: int | None = None,
    ) -> Float[Tensor, " steps"]:
        """Natural-gradient steps on batches, each pass over the data in a new order.

        Args:
            x: (N, D).
            steps: number of steps, at least 1.
            batch: number of rows per step, at most N.
            rate: maps the number of a step, from 1, to its step size; `RobbinsMonro()` if None.
            generator: random generator for the initialisation and the order of rows.
            on_step: called after each step with its number and its estimate of the bound.
            chunk: as in `log_prob`.

        Returns:
            (steps,) unbiased estimates of the bound before each step, nats.

        Raises:
            ValueError: if x is not (N, D) or not finite, or a number is out of range.

        Source: Hoffman et al. (2013), figure 4.
        """
        _at_least_one("steps", steps)
        x, rate = self._started(x, generator, chunk), rate or RobbinsMonro()
        if not 1 <= batch <= len(x):
            raise ValueError(f"batch must be from 1 to {len(x)}, got {batch}")
        found = []
        for step, index in zip(range(1, steps + 1), _batches(len(x), batch, generator), strict=False):
            found.append(self.natural_step(x[index.to(x.device)], len(x), rate(step), chunk=chunk))
            if on_step is not None:
                on_step(step, float(found[-1]))
        return torch.stack(found)

    # In whitened coordinates ------------------------------------------------------------------------------------------

    @property
    def _frame(self) -> Frame:
        return Frame(self.shift, self.matrix)

    @property
    def _prior(self) -> MixturePrior:
        prior = self.prior
        return replace(prior, component=prior.component.moved(-self.shift @ self.matrix, self.matrix))

    @property
    def _factors(self) -> MixtureFactors:
        return MixtureFactors.given(self._prior, self.sums)

    def _pass(self, x: Tensor, factors: MixtureFactors, chunk: int | None) -> tuple[Tensor, Tensor]:
        """The sums for the optimal responsibilities, (K, F), and the sum of their log normalisers, ()."""
        weights, frame = factors.expected_log_joint.to(x.dtype), self._frame
        sums, total = torch.zeros_like(self.sums), self.sums.new_zeros(())
        for part in row_chunks(x, chunk):
            phi = features(frame(x[part]))
            responsibilities, log_normaliser = normalised(weights @ phi)
            sums += responsibilities @ phi.T
            total += log_normaliser.sum(dtype=total.dtype)
        return sums, total

    def _log_joint(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The map from features to log p(y, z = k | data), (K, B)."""
        factors = self._factors
        distance = factors.distance.to(dtype)
        return lambda phi: factors.log_predictive(distance @ phi)

    def _per_row(self, x: Tensor, of: Callable[[Tensor], Tensor], chunk: int | None) -> Tensor:
        """Apply a function of the features, to (..., B), chunk by chunk to all rows."""
        x, frame = self._checked(x, chunk), self._frame
        return torch.cat([of(features(frame(x[part]))) for part in row_chunks(x, chunk)], dim=-1)

    def _started(self, x: Tensor, generator: torch.Generator | None, chunk: int | None) -> Tensor:
        x = self._checked(x, chunk)
        if not bool(self.sums.any()):
            self.start(x, generator=generator, chunk=chunk)
        return x

    def _checked(self, x: Tensor, chunk: int | None) -> Tensor:
        if x.ndim != 2 or x.shape[1] != len(self.mean) or len(x) == 0 or not x.is_floating_point():
            raise ValueError(f"x must be floats (B, {len(self.mean)}), B at least 1, got {x.dtype} {tuple(x.shape)}")
        if not bool(torch.isfinite(x).all()):
            raise ValueError("x must be finite")
        if chunk is not None:
            _at_least_one("chunk", chunk)
        return x


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _are_probabilities(r: Tensor) -> bool:
    return bool((r >= 0).all()) and torch.allclose(r.sum(1), r.new_ones(()), atol=1e-4)


def _mean_and_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance (over N) in float64, in chunks; exact for constant columns."""
    first = x[0].double()
    mean = first + sum((part - first).sum(0) for part in x.split(65_536)) / len(x)
    centred = ((part - mean) for part in x.split(65_536))
    covariance: Tensor = sum((c.T @ c for c in centred), start=mean.new_zeros(len(mean), len(mean))) / len(x)
    return mean, covariance


def _shuffled(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.randperm(n, generator=generator, device="cpu" if generator is None else generator.device)


def _batches(n: int, size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    while True:
        yield from (part for part in _shuffled(n, generator).split(size) if len(part) == size)
