"""How a score model is judged: its scores where they are known, the likelihood of its ODE, its samples at each number
of moves; and pictures of the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from jensen.core.seeding import generator
from jensen.core.types import Likelihood
from jensen.data.digits import LEVELS
from jensen.diffusion import Bins, Reconstruction, as_mass, dequantize
from jensen.metrics import bits_per_dim, energy_distance, nearest_distance
from jensen.models.diffusion import round_trip
from jensen.models.score import ScoreModel, as_diffusion
from jensen.recipes.base import Track
from jensen.recipes.folder import command, save_film, save_image
from jensen.recipes.judging import bits, chosen, first_level, mean_of, nats, side_by_side, since
from jensen.report import plots
from jensen.report.page import Card, Picture, Section, Table, previews, training_curves, write_page
from jensen.score import KernelDensity, Score, annealed_variance, relative_score_error, score_of

if TYPE_CHECKING:
    from jensen.recipes.score import ScoreRecipe

CHUNK = 200  # rows between two moves of the progress bar
SPAN = (0.0, 1.0)  # of the bound and of the ODE: the whole ladder, from the smallest sigma to the largest
STRIP = 7  # states of a strip
FILM = 60  # frames of a film
EXACT = 500  # samples drawn along the exact score
TRIPS = (8, 16, 32, 64, 128)  # numbers of steps of the way there and back


@dataclass(frozen=True)
class Judge:
    """A trained model under judgement."""

    recipe: ScoreRecipe
    model: ScoreModel
    samples: Path
    track: Track

    def everything(self) -> dict[str, Any]:
        """The evaluation: JSON values; pictures beside it."""
        x = self.recipe.test_data().to(self.model.centre)
        found: dict[str, Any] = {"rows": len(x), "dims": x[0].numel()}
        if self.recipe.noised_log_p(x[:1], 1.0) is not None:
            found["scores"] = self._scores(x)
        found["ode"] = self._ode(x[: self.recipe.judging.ode_rows])
        found["bound"] = self._bound(x)
        found["samples"] = self._by_moves(x)
        found["round_trip"] = self._round_trip(x[:100])
        self._draw()
        return found

    def _scores(self, x: Tensor) -> list[dict[str, float]]:
        """At each level, the relative squared error of the score where the noised data are."""
        rows = []
        rng = generator(self.recipe.seed, x.device)
        for level, sigma in enumerate((self.model.sigmas * self.model.scale).tolist()):
            noised = x + sigma * torch.randn(x.shape, generator=rng, device=x.device)

            def ours(z: Tensor, level: int = level) -> Tensor:
                return self.model.score(z, level)

            with torch.no_grad():
                error = relative_score_error(ours, noised, exact_score(self.recipe, sigma))
            rows.append({"sigma": sigma, "error": error})
        return rows

    def _ode(self, x: Tensor) -> dict[str, Any]:
        """The likelihood of the probability-flow ODE of the same network."""
        advance, rng = self.track("likelihood of the ODE", len(x)), generator(self.recipe.seed, x.device)
        model, dims = as_diffusion(self.model), x[0].numel()
        bins = None if self.recipe.what == "points" else Bins(LEVELS)
        parts, evaluations = [], 0
        for rows in x.split(CHUNK):
            spread = rows if bins is None else dequantize(rows, bins.width, rng)
            trace = "exact" if dims <= 16 else "hutchinson"
            flow = model.ode_log_likelihood(spread, trace=trace, span=SPAN, rtol=1e-4, atol=1e-4, generator=rng)
            likelihood = flow.likelihood
            if bins is not None:
                likelihood = as_mass(likelihood, dims * float(torch.as_tensor(bins.width).log()))
            parts.append(likelihood)
            evaluations = max(evaluations, flow.evaluations)
            advance(len(rows))
        errors = [p.stderr for p in parts if p.stderr is not None]
        whole = replace(
            parts[0], value=torch.cat([p.value for p in parts]), stderr=torch.cat(errors) if errors else None
        )
        found: dict[str, Any] = {
            "rows": len(x),
            "evaluations": evaluations,
            "first": first_level(model.denoiser.schedule, SPAN[0]),
            "measure": whole.measure,
            **mean_of(whole),
        }
        found["bits_per_dim"] = float(bits_per_dim(torch.tensor(found["mean"]), dims))
        known = self.recipe.noised_log_p(x.double(), 0.0)
        if known is not None:
            found["known"] = mean_of(Likelihood(known, "exact", "density"))
        return found

    def _bound(self, x: Tensor) -> dict[str, Any]:
        """The variational bound of the reverse diffusion, in continuous time, and its terms."""
        advance, rng = self.track("bound in continuous time", len(x)), generator(self.recipe.seed, x.device)
        model, bins = as_diffusion(self.model), None if self.recipe.what == "points" else Bins(LEVELS)
        parts = []
        for rows in x.split(CHUNK):
            parts.append(model.bound(rows, span=SPAN, reconstruction=Reconstruction("denoised", bins), generator=rng))
            advance(len(rows))
        terms = {
            "prior": float(torch.cat([p.prior for p in parts]).mean()),
            "diffusion": float(torch.cat([p.diffusion for p in parts]).mean()),
            "reconstruction": float(torch.cat([p.reconstruction for p in parts]).mean()),
        }
        whole = replace(
            parts[0].likelihood,
            value=torch.cat([p.likelihood.value for p in parts]),
            stderr=torch.cat([p.stderr for p in parts if p.stderr is not None]),
        )
        first = first_level(model.denoiser.schedule, SPAN[0])
        found: dict[str, Any] = {"measure": whole.measure, "first": first, **mean_of(whole), "terms": terms}
        found["bits_per_dim"] = float(bits_per_dim(torch.tensor(found["mean"]), x[0].numel()))
        return found

    def _round_trip(self, x: Tensor) -> dict[str, Any]:
        """Root mean square error of a number after encoding and decoding by DDIM, as the diffusion model that it is."""
        advance, model = self.track("there and back", len(TRIPS)), as_diffusion(self.model)
        errors = []
        for steps in TRIPS:
            errors.append(float(round_trip(model, x, [steps], sampler="ddim").mean()))
            advance(1)
        return {"sampler": "ddim", "rows": len(x), "steps": list(TRIPS), "error": errors}

    def _by_moves(self, x: Tensor) -> dict[str, Any]:
        """Samples at each number of moves a level, beside as many training data, and what the exact score would give.

        The total variance over that of the training data is the run's; beside it stands that of a Gaussian with the
        data's covariance, annealed alike with its exact score. Some are drawn along an exact score as well: of the
        data's own law where it is known, else of the training data's.
        """
        recipe, judging = self.recipe, self.recipe.judging
        training = recipe.training_data()
        real = training[: judging.samples]
        floor = energy_distance(real, x.cpu())
        found: dict[str, Any] = {
            "n": judging.samples,
            "levels": len(self.model.sigmas),
            "default": {"steps": recipe.sampling.steps},
            "floor": {"n": len(real), "energy": floor.value, "stderr": floor.stderr},
            "rows": [],
        }
        variances = torch.linalg.eigvalsh(self.model.standardize(training.to(x)).double().flatten(1).T.cov())
        variances = variances[variances > 1e-9 * variances[-1]].cpu()  # a pixel that never changes has none
        last = self.model.sigmas[-1].double().cpu() ** 2
        found["equilibrium"] = float((variances**2 / (variances + last)).sum() / variances.sum())
        for steps in sorted({*judging.steps, recipe.sampling.steps}):
            advance = self.track(f"drawing with {steps} moves", judging.samples)
            made = recipe.draw(self.model, judging.samples, recipe.seed, advance, steps=steps).cpu()
            distance = energy_distance(made, x.cpu())
            row = {"steps": steps, "energy": distance.value, "stderr": distance.stderr}
            row |= share_of_variance(made, training)
            exact = annealed_variance(
                variances, self.model.sigmas.cpu(), recipe.sampling.step_size, steps, denoise=recipe.sampling.denoise
            )
            row["exact_variance"] = float(exact.sum() / variances.sum())
            found["rows"].append(row)
            if recipe.what == "pictures" and steps == recipe.sampling.steps:
                near, fresh = (nearest_distance(rows, training)[0] for rows in (made, x.cpu()))
                found["nearest"] = {"drawn": float(near.median()), "fresh": float(fresh.median())}
        n = min(judging.samples, EXACT)
        advance = self.track("drawing with the exact score", n)
        distance = energy_distance(recipe.draw(self._exact(n), n, recipe.seed, advance).cpu(), x.cpu())
        law = "data" if recipe.noised_log_p(x[:1], 1.0) is not None else "training data"
        found["exact"] = {"of": law, "n": n, "energy": distance.value, "stderr": distance.stderr}
        return found

    def _exact(self, chunk: int) -> ScoreModel:
        """The same ladder and annealing, along the exact score."""
        network, ours = _ExactNetwork(self.recipe, self.model), self.model
        sampling = replace(self.recipe.sampling.settings(), chunk=chunk)
        model = ScoreModel(network, ours.shape, ours.sigmas, sampling).to(ours.centre)
        model.centre.copy_(ours.centre)
        model.scale.copy_(ours.scale)
        return model

    def _draw(self) -> None:
        recipe, points = self.recipe, self.recipe.what == "points"
        n = 1000 if points else 60
        states: list[Tensor] = []
        rng = generator(recipe.seed, self.model.centre.device)
        made = self.model.sample(
            n, generator=rng, on_step=lambda _, z: states.append(z.cpu()), chunk=1024 if points else 64
        )
        save_image(self._look(made), self.samples / "samples.png")
        shown = chosen(states, STRIP)
        if points:
            strip = side_by_side([self._look(state, scale=2) for state in shown])
        else:
            strip = recipe.image(torch.stack([state[:10] for state in shown], 1).flatten(0, 1), columns=len(shown))
        save_image(strip, self.samples / "strip.png")
        save_film([self._look(state, scale=3) for state in chosen(states, FILM)], self.samples / "film.gif")

    def _look(self, x: Tensor, scale: int = 4) -> Image.Image:
        if self.recipe.what == "points":
            return plots.points(x, behind=self.recipe.test_data(), scale=scale)
        return self.recipe.image(x, columns=10, scale=scale)

    @staticmethod
    def headline(found: dict[str, Any]) -> list[tuple[str, str]]:
        """Rows to print."""
        ode, drawn = found["ode"], found["samples"]
        rows = []
        if "known" in ode:
            rows.append(("log p of test data under their own law", nats(ode["known"])))
        rows.append((f"the ODE's, {since(ode)}", f"{nats(ode)}, {bits(ode)}"))
        rows.append(("  evaluations, rows", f"{ode['evaluations']}, {ode['rows']}"))
        bound, terms = found["bound"], found["bound"]["terms"]
        rows += [
            (f"bound in continuous time, {since(bound)}", f"{nats(bound)}, {bits(bound)}"),
            (
                "  L_T + diffusion + L_0",
                f"{terms['prior']:.3f} + {terms['diffusion']:.3f} + {terms['reconstruction']:.3f}",
            ),
        ]
        rows += [
            (f"score at noise {level['sigma']:.3f}", f"relative squared error {level['error']:.5f}")
            for level in found.get("scores", [])
        ]
        for row in drawn["rows"]:
            words = f"energy distance to test data {row['energy']:.5f} ± {row['stderr']:.5f}, variance {spread(row)}"
            rows.append((f"drawn with {row['steps']} moves a level", words))
        rows.append((f"{drawn['floor']['n']} training data instead", f"energy distance {drawn['floor']['energy']:.5f}"))
        exact = drawn["exact"]
        words = f"energy distance {exact['energy']:.5f} ± {exact['stderr']:.5f}"
        rows.append((f"{exact['n']} drawn along the exact score of the {exact['of']}", words))
        if "nearest" in drawn:
            near = drawn["nearest"]
            words = f"{near['drawn']:.3f} / {near['fresh']:.3f} (medians; a copy has 0)"
            rows.append(("nearest training datum, drawn / test", words))
        trip = found["round_trip"]
        errors = ", ".join(f"{e:.4f} in {n}" for n, e in zip(trip["steps"], trip["error"], strict=True))
        rows.append(("encoded and decoded, error a number", errors))
        return rows


class _ExactNetwork(nn.Module):
    """(z, sigma) to the exact score of standardised data."""

    def __init__(self, recipe: ScoreRecipe, model: ScoreModel):
        super().__init__()
        self.recipe, self.of = recipe, (model,)  # not a part of it

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        model = self.of[0]
        score: Tensor = model.scale * exact_score(self.recipe, float(sigma[0] * model.scale))(model.restore(z))
        return score


def exact_score(recipe: ScoreRecipe, sigma: float) -> Score:
    """Of data noised by sigma; where their law is not known, of the training data, which no other score fits better."""
    if recipe.noised_log_p(torch.zeros(1, *recipe.shape()), sigma) is None:
        return lambda x: KernelDensity(recipe.training_data().to(x), sigma).score(x)

    def log_p(x: Tensor) -> Tensor:
        found = recipe.noised_log_p(x, sigma)
        assert found is not None
        return found

    return score_of(log_p)


def share_of_variance(made: Tensor, data: Tensor) -> dict[str, float]:
    """Total variance of samples over that of data, and its standard error to first order."""
    a, b = ((v.double().flatten(1) - v.double().flatten(1).mean(0)).square().sum(1) for v in (made, data))
    ratio = a.mean() / b.mean()
    error = (a.var() / len(a) + ratio**2 * b.var() / len(b)).sqrt() / b.mean()
    return {"variance": float(ratio), "variance_stderr": float(error)}


def exactly(drawn: dict[str, Any]) -> str:
    """What of a run's error is the sampler's."""
    words = (
        "The variance is that of samples over that of the training data; beside it stands a Gaussian of the data's "
        "covariance, annealed alike along its exact score, in closed form: its distance from the equilibrium, "
        f"{drawn['equilibrium']:.3f}, is the sampler's error, which no network mends."
    )
    found, steps = drawn["exact"], drawn["default"]["steps"]
    return (
        f"{words} Along the exact score of the {found['of']}, {steps} moves a level, {found['n']} samples have an "
        f"energy distance of {found['energy']:.5f} ± {found['stderr']:.5f}."
    )


def spread(row: dict[str, Any]) -> str:
    """A run's variance and the exact score's, in words."""
    return f"{row['variance']:.3f} ± {row['variance_stderr']:.3f} (exact score {row['exact_variance']:.3f})"


def write_report(recipe: ScoreRecipe, folder: Path, found: dict[str, Any]) -> None:
    """Write report.html below a run's folder."""
    samples, ode, drawn = folder / "samples", found["ode"], found["samples"]
    default = next(row for row in drawn["rows"] if row["steps"] == drawn["default"]["steps"])
    moves = [row["steps"] for row in drawn["rows"]]
    table, trip, terms = [("the ODE", ode), ("bound", found["bound"])], found["round_trip"], found["bound"]["terms"]
    if "known" in ode:
        table.insert(0, ("the data's own law", ode["known"]))
    sections = [
        Section("Drawn", "", [Picture(samples / "samples.png", "samples")]),
        Section(
            "From noise to data",
            "Annealed Langevin: the state at seven moments from the largest noise level to the smallest; then as a "
            "film.",
            [Picture(samples / "strip.png", "states of the chain"), Picture(samples / "film.gif", "the way, animated")],
        ),
        Section(
            "How good are its scores",
            "E|s - score|^2 / E|score|^2 where the data noised by each level are: 0 is exact, 1 is what saying nothing "
            "costs. The exact score is the gradient of the moons' density, known by quadrature.",
            plots=[
                plots.curves(
                    [level["sigma"] for level in found["scores"]],
                    {"relative squared error": [level["error"] for level in found["scores"]]},
                    title="error of the score",
                    xlabel="noise",
                    log=True,
                )
            ],
        )
        if "scores" in found
        else None,
        Section(
            "How likely are data it never saw",
            f"Mean log {ode['measure']} of {ode['rows']} test data under the probability-flow ODE of the same network, "
            f"and the bound of its reverse diffusion on {found['rows']}: L_T + diffusion + L_0 is "
            f"{terms['prior']:.3f} + {terms['diffusion']:.3f} + {terms['reconstruction']:.3f}. Nats, standard errors "
            "over the choice of data.",
            table=Table(
                ("", "first level", "nats", "standard error"),
                [
                    (
                        name,
                        since(row).removeprefix("from ") if "first" in row else "",
                        f"{row['mean']:.3f}",
                        f"{row['stderr']:.3f}",
                    )
                    for name, row in table
                ],
            ),
        ),
        Section(
            "Samples against moves",
            f"Energy distance between {drawn['n']} samples and the test data, {drawn['levels']} noise levels; "
            f"{drawn['floor']['n']} training data score {drawn['floor']['energy']:.5f}. {exactly(drawn)}",
            plots=[
                plots.curves(
                    moves,
                    {
                        "drawn": [max(row["energy"], 1e-6) for row in drawn["rows"]],
                        "training data": [max(drawn["floor"]["energy"], 1e-6)] * len(moves),
                    },
                    title="energy distance to test data",
                    xlabel="moves a level",
                    log=True,
                )
            ],
            table=Table(
                ("moves a level", "evaluations", "energy distance", "variance", "with the exact score"),
                [
                    [
                        str(r["steps"]),
                        str(r["steps"] * drawn["levels"]),
                        f"{r['energy']:.5f} ± {r['stderr']:.5f}",
                        f"{r['variance']:.3f} ± {r['variance_stderr']:.3f}",
                        f"{r['exact_variance']:.3f}",
                    ]
                    for r in drawn["rows"]
                ],
            ),
        ),
        Section(
            "There and back",
            "Root mean square error of a number after a test datum was carried to noise by DDIM and back.",
            plots=[
                plots.curves(trip["steps"], {"error": trip["error"]}, title="error", xlabel="steps each way", log=True)
            ],
        ),
        Section("Training", plots=training_curves(folder)),
        Section("Samples over training", "The same noise, carried by the averaged weights.", previews(folder)),
        Section("Next", code=f"{recipe.example(folder)}\n{command('evaluate', folder)}"),
    ]
    cards = [
        Card("nats, the ODE's likelihood", f"{ode['mean']:.3f}", f"± {ode['stderr']:.3f}; {since(ode)}"),
        Card(
            "energy distance",
            f"{default['energy']:.5f}",
            f"{default['steps']} moves a level; training data {drawn['floor']['energy']:.5f}",
        ),
    ]
    if "known" in ode:
        cards.insert(0, Card("nats, the data's own law", f"{ode['known']['mean']:.3f}", "the most there is"))
    if "nearest" in drawn:
        near = drawn["nearest"]
        cards.append(
            Card("to the nearest training picture", f"{near['drawn']:.3f}", f"test pictures {near['fresh']:.3f}")
        )
    lead = f"A {recipe.summary}, judged on {found['rows']} of them that it was not trained on."
    write_page(folder, lead, cards, [s for s in sections if s is not None], recipe.model_dump(mode="json"))
