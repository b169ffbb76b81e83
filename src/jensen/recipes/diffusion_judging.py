"""How a diffusion model is judged: the terms of its bound, its ODE's likelihood, its samples at each number of steps,
what comes back from encoding; and pictures of its ways.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from jensen.core.seeding import generator
from jensen.core.types import Likelihood
from jensen.diffusion import Reconstruction, Span, as_mass, dequantize
from jensen.metrics import bits_per_dim, energy_distance, nearest_distance
from jensen.models import Diffusion
from jensen.models.diffusion import round_trip
from jensen.recipes.base import Track
from jensen.recipes.digit_reader import ceiling, share_read
from jensen.recipes.folder import command, save_film, save_image
from jensen.recipes.judging import bits, chosen, first_level, mean_of, nats, side_by_side, since
from jensen.report import plots
from jensen.report.page import Card, Picture, Section, Table, previews, training_curves, write_page

if TYPE_CHECKING:
    from jensen.recipes.diffusion import DiffusionRecipe

CHUNK = 200  # rows between two moves of the progress bar
STRIP = 7  # states of a denoising strip
TRIPS = (8, 16, 32, 64, 128)  # numbers of steps of the way there and back
ESTIMATES = ("discrete", "continuous", "trained", "ode")  # of log p, as an evaluation names them
TRAINED = "lower bound of the reverse diffusion, x read off the first level by its noise alone"


@dataclass(frozen=True)
class Judge:
    """A trained model under judgement."""

    recipe: DiffusionRecipe
    model: Diffusion
    samples: Path
    track: Track

    def everything(self) -> dict[str, Any]:
        """The evaluation: JSON values; pictures beside it."""
        test = {name: v.to(self.model.centre.device) for name, v in self.recipe.test_data().items()}
        x, cond = test["x"], test.get("cond")
        rng = generator(self.recipe.seed, x.device)
        found: dict[str, Any] = {"rows": len(x), "dims": x[0].numel()}
        found["likelihood"] = self._likelihood(x, cond, rng)
        found["samples"] = self._by_steps(x)
        found["round_trip"] = self._round_trip(x[:100], None if cond is None else cond[:100])
        self._draw()
        return found

    # likelihood --------------------------------------------------------------------------

    def _likelihood(self, x: Tensor, cond: Tensor | None, rng: torch.Generator) -> dict[str, Any]:
        """Every estimate of the test data's log p in the same measure."""
        judging, bins = self.recipe.judging, self.recipe.bins()
        dims, reconstruction = x[0].numel(), Reconstruction("denoised", bins)
        span, steps = self.recipe.judged_span(), judging.bound_steps
        discrete = self._bounds("bound in steps", x, cond, steps, span, reconstruction, rng)
        continuous = self._bounds("bound in continuous time", x, cond, None, span, reconstruction, rng)
        rows = x[: judging.ode_rows]
        ode, evaluations = self._ode(rows, None if cond is None else cond[: len(rows)], rng)
        level = {"first": first_level(self.model.denoiser.schedule, span[0])}
        found: dict[str, Any] = {
            "measure": "density" if bins is None else "mass",
            "discrete": {"steps": steps, **level, **discrete},
            "continuous": {**level, **continuous},
            "ode": {"rows": len(rows), "evaluations": evaluations, **level, **mean_of(ode)},
        }
        if self.recipe.loss.name == "bound":
            span, reconstruction = self.recipe.trained_span(), self.recipe.trained_reconstruction()
            trained = self._bounds("bound as trained", x, cond, None, span, reconstruction, rng)
            found["trained"] = {"first": first_level(self.model.denoiser.schedule, span[0]), **trained}
        known = self.recipe.known_log_p(x)
        if known is not None:
            found["known"] = mean_of(Likelihood(known, "exact", "density"))
        for name in ESTIMATES:
            if name in found:
                found[name]["bits_per_dim"] = float(bits_per_dim(torch.tensor(found[name]["mean"]), dims))
        return found

    def _bounds(
        self,
        name: str,
        x: Tensor,
        cond: Tensor | None,
        steps: int | None,
        span: Span,
        reconstruction: Reconstruction,
        rng: torch.Generator,
    ) -> dict[str, Any]:
        advance = self.track(name, len(x))
        parts = []
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            given = None if cond is None else cond[rows]
            parts.append(
                self.model.bound(
                    x[rows],
                    steps=steps,
                    span=span,
                    reconstruction=reconstruction,
                    cond=given,
                    generator=rng,
                )
            )
            advance(len(parts[-1].prior))
        value = torch.cat([p.likelihood.value for p in parts])
        error = torch.cat([p.stderr for p in parts if p.stderr is not None])
        terms = {
            "prior": float(torch.cat([p.prior for p in parts]).mean()),
            "diffusion": float(torch.cat([p.diffusion for p in parts]).mean()),
            "reconstruction": float(torch.cat([p.reconstruction for p in parts]).mean()),
            "each": torch.cat([p.steps for p in parts]).mean(0).tolist(),
        }
        return {**mean_of(Likelihood(value, "lower bound", parts[0].measure, error)), "terms": terms}

    def _ode(self, x: Tensor, cond: Tensor | None, rng: torch.Generator) -> tuple[Likelihood, int]:
        """The ODE's log p; of discrete data a bound on their mass, through data spread over their bins."""
        span, bins, dims = self.recipe.judged_span(), self.recipe.bins(), x[0].numel()
        advance = self.track("likelihood of the ODE", len(x))
        values, errors, evaluations = [], [], 0
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            given = None if cond is None else cond[rows]
            spread = x[rows] if bins is None else dequantize(x[rows], bins.width, rng)
            flow = self.model.ode_log_likelihood(
                spread,
                trace="exact" if dims <= 16 else "hutchinson",
                span=span,
                rtol=1e-4,
                atol=1e-4,
                cond=given,
                generator=rng,
            )
            likelihood = flow.likelihood
            if bins is not None:
                likelihood = as_mass(likelihood, dims * float(torch.as_tensor(bins.width).log()))
            values.append(likelihood.value)
            if likelihood.stderr is not None:
                errors.append(likelihood.stderr)
            evaluations = max(evaluations, flow.evaluations)
            advance(len(spread))
        return replace(likelihood, value=torch.cat(values), stderr=torch.cat(errors) if errors else None), evaluations

    # samples -----------------------------------------------------------------------------

    def _by_steps(self, x: Tensor) -> dict[str, Any]:
        """Samples at each number of steps, beside as many training data."""
        recipe, judging = self.recipe, self.recipe.judging
        asked = recipe.asked(judging.samples)
        training = recipe.training_data()["x"]
        real = training[: judging.samples]
        floor = energy_distance(real, x.cpu())
        found: dict[str, Any] = {
            "n": judging.samples,
            "default": {"sampler": recipe.sampling.sampler, "steps": recipe.sampling.steps},
            "floor": {"n": len(real), "energy": floor.value, "stderr": floor.stderr},
            "rows": [],
        }
        if asked is not None:
            found["ceiling"] = vars(ceiling("grey"))
        for steps in sorted({*judging.steps, recipe.sampling.steps}):
            advance = self.track(f"drawing in {steps} steps", judging.samples)
            made = recipe.draw(self.model, judging.samples, recipe.seed, advance, steps=steps).cpu()
            distance = energy_distance(made, x.cpu())
            row: dict[str, Any] = {"steps": steps, "energy": distance.value, "stderr": distance.stderr}
            if asked is not None:
                row["read"] = vars(share_read(made, asked[:, 0], "grey"))
            known = recipe.known_log_p(made)
            if known is not None:
                row["log_p_of_samples"] = float(known.mean())
            found["rows"].append(row)
            if recipe.what == "pictures" and steps == recipe.sampling.steps:
                near, fresh = (nearest_distance(rows, training)[0] for rows in (made, x.cpu()))
                found["nearest"] = {"drawn": float(near.median()), "fresh": float(fresh.median())}
        return found

    def _round_trip(self, x: Tensor, cond: Tensor | None) -> dict[str, Any]:
        """Root mean square error of a number after encoding and decoding by DDIM."""
        advance, end = self.track("there and back", len(TRIPS)), self.recipe.round_trip_end()
        errors = []
        for steps in TRIPS:
            changes: dict[str, Any] = {"sampler": "ddim", "guidance": 1.0, "clip": False, "end": end}
            errors.append(float(round_trip(self.model, x, [steps], cond=cond, **changes).mean()))
            advance(1)
        return {"sampler": "ddim", "rows": len(x), "end": end, "steps": list(TRIPS), "error": errors}

    # pictures ----------------------------------------------------------------------------

    def _draw(self) -> None:
        recipe, points = self.recipe, self.recipe.what == "points"
        n = 1000 if points else 60
        states: list[Tensor] = []
        made = self.model.sample(
            n,
            cond=recipe.asked(n),
            generator=generator(recipe.seed, self.model.centre.device),
            on_step=lambda _, z: states.append(z.cpu()),
            chunk=1024 if points else 64,
        )
        save_image(self._look(made), self.samples / "samples.png")
        shown = chosen(states, STRIP)
        if points:
            strip = side_by_side([self._look(state, scale=2) for state in shown])
        else:
            strip = recipe.image(torch.stack([state[:10] for state in shown], 1).flatten(0, 1), columns=len(shown))
        save_image(strip, self.samples / "strip.png")
        save_film([self._look(state, scale=3) for state in states], self.samples / "film.gif")
        if not points:
            rows = torch.cat(
                [
                    self.model.interpolate(
                        generator(2 * k), generator(2 * k + 1), 11, cond=torch.tensor([[k]]), sampler="ddim"
                    )
                    for k in range(6)
                ]
            )
            save_image(recipe.image(rows, columns=11), self.samples / "interpolations.png")

    def _look(self, x: Tensor, scale: int = 4) -> Image.Image:
        if self.recipe.what == "points":
            return plots.points(x, behind=self.recipe.test_data()["x"], scale=scale)
        return self.recipe.image(x, columns=10 if len(x) % 10 == 0 else None, scale=scale)

    @staticmethod
    def headline(found: dict[str, Any]) -> list[tuple[str, str]]:
        """Rows to print."""
        likelihood = found["likelihood"]
        rows = []
        if "known" in likelihood:
            rows.append(("log p of test data under their own law", nats(likelihood["known"])))
        discrete, continuous, ode = (likelihood[name] for name in ("discrete", "continuous", "ode"))
        terms = discrete["terms"]
        rows += [
            (f"bound in {discrete['steps']} steps, {since(discrete)}", f"{nats(discrete)}, {bits(discrete)}"),
            (
                "  L_T + sum of L_(t-1) + L_0",
                f"{terms['prior']:.3f} + {terms['diffusion']:.3f} + {terms['reconstruction']:.3f}",
            ),
            (f"bound in continuous time, {since(continuous)}", f"{nats(continuous)}, {bits(continuous)}"),
        ]
        if "trained" in likelihood:
            trained = likelihood["trained"]
            rows.append((f"the bound trained on, {since(trained)}", f"{nats(trained)}, {bits(trained)}"))
        rows += [
            (f"the ODE's own, {since(ode)}", f"{nats(ode)}, {bits(ode)}"),
            ("  evaluations, rows", f"{ode['evaluations']}, {ode['rows']}"),
        ]
        drawn = found["samples"]
        for row in drawn["rows"]:
            words = f"energy distance to test data {row['energy']:.5f} ± {row['stderr']:.5f}"
            if "read" in row:
                words += f", {100 * row['read']['value']:.1f}% read as asked"
            rows.append((f"drawn in {row['steps']} steps", words))
        rows.append((f"{drawn['floor']['n']} training data instead", f"energy distance {drawn['floor']['energy']:.5f}"))
        if "ceiling" in drawn:
            rows.append(("real test digits read right", f"{100 * drawn['ceiling']['value']:.1f}%"))
        if "nearest" in drawn:
            near = drawn["nearest"]
            words = f"{near['drawn']:.3f} / {near['fresh']:.3f} (medians; a copy has 0)"
            rows.append(("nearest training datum, drawn / test", words))
        trip = found["round_trip"]
        rows.append(
            (
                "encoded and decoded, error a number",
                ", ".join(f"{e:.4f} in {s}" for s, e in zip(trip["steps"], trip["error"], strict=True)),
            )
        )
        return rows


def write_report(recipe: DiffusionRecipe, folder: Path, found: dict[str, Any]) -> None:
    """Write report.html below a run's folder."""
    samples, likelihood, drawn, trip = folder / "samples", found["likelihood"], found["samples"], found["round_trip"]
    discrete, continuous, ode = (likelihood[name] for name in ("discrete", "continuous", "ode"))
    default = next(row for row in drawn["rows"] if row["steps"] == drawn["default"]["steps"])
    steps = [row["steps"] for row in drawn["rows"]]
    quality = [
        plots.curves(
            steps,
            {
                "drawn": [max(row["energy"], 1e-6) for row in drawn["rows"]],
                "training data": [max(drawn["floor"]["energy"], 1e-6)] * len(steps),
            },
            title="energy distance to test data",
            xlabel="evaluations of the denoiser",
            log=True,
        )
    ]
    head = ["steps", "energy distance", "standard error"]
    rows = [[str(r["steps"]), f"{r['energy']:.5f}", f"{r['stderr']:.5f}"] for r in drawn["rows"]]
    if "ceiling" in drawn:
        head.append("read as asked")
        for cells, row in zip(rows, drawn["rows"], strict=True):
            p = row["read"]
            cells.append(f"{100 * p['value']:.1f}% ({100 * p['low']:.1f} to {100 * p['high']:.1f})")
    if "log_p_of_samples" in drawn["rows"][0]:
        head.append("log p of the samples under the data's own law")
        for cells, row in zip(rows, drawn["rows"], strict=True):
            cells.append(f"{row['log_p_of_samples']:.3f}")
    table = [
        ("the data's own law", likelihood["known"], "exact") if "known" in likelihood else None,
        (f"bound in {discrete['steps']} steps", discrete, "lower bound of the reverse chain"),
        ("bound in continuous time", continuous, "lower bound of the reverse diffusion"),
        ("the bound trained on", likelihood["trained"], TRAINED) if "trained" in likelihood else None,
        ("the ODE", ode, f"another model of the same denoiser; {ode['rows']} rows, {ode['evaluations']} evaluations"),
    ]
    terms = discrete["terms"]
    sections = [
        Section("Drawn", "", [Picture(samples / "samples.png", "samples")]),
        Section(
            "From noise to data",
            "The sampler's state, from noise to the finished sample; then all of it as a film.",
            [Picture(samples / "strip.png", "denoising strip"), Picture(samples / "film.gif", "the way, animated")],
        ),
        Section(
            "How likely are data it never saw",
            f"Mean log {likelihood['measure']} of {found['rows']} test data in nats, with its standard error over the "
            "choice of data. A model reads x off its first level, whose noise is the decoder's: bounds from two levels "
            "are of two models. Neither the bound nor the ODE bounds the other: they are two models of one denoiser. "
            f"The bound in {discrete['steps']} steps is L_T + the sum of L_(t-1) + L_0 = {terms['prior']:.3f} + "
            f"{terms['diffusion']:.3f} + {terms['reconstruction']:.3f} nats.",
            plots=[
                plots.curve(
                    [(k + 1) / discrete["steps"] for k in range(len(terms["each"]))],
                    terms["each"],
                    title="nats of each step, L_(t-1)",
                    xlabel="t",
                )
            ],
            table=Table(
                ("", "first level", "nats", "standard error", "bits a dimension", "what it is"),
                [
                    (
                        name,
                        since(row).removeprefix("from ") if "first" in row else "",
                        f"{row['mean']:.3f}",
                        f"{row['stderr']:.3f}",
                        f"{row['bits_per_dim']:.4f}" if "bits_per_dim" in row else "",
                        what,
                    )
                    for name, row, what in (line for line in table if line is not None)
                ],
            ),
        ),
        Section(
            "Samples against evaluations",
            f"Energy distance between {drawn['n']} samples and the test data; {drawn['floor']['n']} training data "
            f"score {drawn['floor']['energy']:.5f}.",
            plots=quality,
            table=Table(head, rows),
        ),
        Section(
            "There and back",
            "Root mean square error of a number after a test datum was carried to noise by DDIM and back"
            + (f", from its first level, t = {trip['end']:g}." if trip["end"] else "."),
            plots=[
                plots.curves(
                    trip["steps"],
                    {"error": trip["error"]},
                    title="error",
                    xlabel="steps each way",
                    log=True,
                )
            ],
        ),
        Section(
            "From one noise to another",
            "DDIM samples on the sphere's way between two draws of noise, one class a row.",
            [Picture(samples / "interpolations.png", "interpolations")],
        )
        if recipe.what == "pictures"
        else None,
        Section("Training", plots=training_curves(folder, ("model/diffusion", "diffusion term, nats"))),
        Section("Samples over training", "The same noise, carried by the averaged weights.", previews(folder)),
        Section("Next", code=f"{recipe.example(folder)}\n{command('evaluate', folder)}"),
    ]
    cards = [
        Card(f"nats, {name}", f"{row['mean']:.3f}", f"± {row['stderr']:.3f}; {since(row)}")
        for name, row in (
            ("bound in continuous time", continuous),
            *((("the bound trained on", likelihood["trained"]),) if "trained" in likelihood else ()),
            ("the ODE's likelihood", ode),
        )
    ]
    cards.append(
        Card(
            "energy distance",
            f"{default['energy']:.5f}",
            f"{drawn['default']['sampler']}, {default['steps']} steps; training data {drawn['floor']['energy']:.5f}",
        )
    )
    if "known" in likelihood:
        cards.insert(0, Card("nats, the data's own law", f"{likelihood['known']['mean']:.3f}", "the most there is"))
    if "ceiling" in drawn:
        p, most = default["read"], drawn["ceiling"]
        cards.append(Card("digits read as asked", f"{100 * p['value']:.1f}%", f"real ones {100 * most['value']:.1f}%"))
    if "nearest" in drawn:
        near = drawn["nearest"]
        note = f"test pictures {near['fresh']:.3f}"
        cards.append(Card("to the nearest training picture", f"{near['drawn']:.3f}", note))
    lead = f"A {recipe.summary}, judged on {found['rows']} of them that it was not trained on."
    write_page(folder, lead, cards, [s for s in sections if s is not None], recipe.model_dump(mode="json"))
