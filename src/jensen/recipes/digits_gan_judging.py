"""What only digits tell of a generator: classes and modes reached, clearness, copies, the distance a critic claims."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jensen.adversarial import gradient_penalty, wasserstein1
from jensen.core.seeding import generator
from jensen.data.stacked import MODES, expected_modes
from jensen.metrics import Proportion, class_coverage, memorisation, nearest_distance, prdc, wilson
from jensen.models.gan import GAN
from jensen.recipes.adversarial_judging import logits
from jensen.recipes.base import Track
from jensen.recipes.digit_reader import ceiling, clear, read_digits, read_stacked, share_clear
from jensen.recipes.folder import save_image
from jensen.recipes.judging import NEARER
from jensen.report import plots
from jensen.report.page import Card, Picture, Section, Table

if TYPE_CHECKING:
    from jensen.recipes.digits_gan import SingleDigits, StackedDigitsGAN

CLASSES, COLUMNS = 10, 16
READ = 24  # a stream of random numbers: what is drawn for the reader


@dataclass(frozen=True)
class Single:
    """Samples of one digit each."""

    recipe: SingleDigits

    def judged(self, made: Tensor, samples: Path) -> dict[str, Any]:
        training, labels = self.recipe.data.train()
        test = self.recipe.test_data()
        read = read_digits(made, "grey")
        classes = class_coverage(read, CLASSES, labels.bincount().float())
        self._draw(made, read, samples)
        copies = memorisation(made, training, test)
        return {
            "n": len(made),
            "reader": asdict(ceiling("grey")),
            "classes": {
                **asdict(classes),
                "shares": (read.bincount(minlength=CLASSES) / len(read)).tolist(),
                "data": (labels.bincount(minlength=CLASSES) / len(labels)).tolist(),
            },
            "clear": asdict(share_clear(made, "grey")),
            "copies": asdict(copies),
            "balls": {name: asdict(_balls(test, x)) for name, x in (("drawn", made), ("training", training))},
        }

    def _draw(self, made: Tensor, read: Tensor, samples: Path) -> None:
        image = self.recipe.image
        rows = [made[read == k][:COLUMNS] for k in range(CLASSES)]
        full = [torch.cat([row, row.new_full((COLUMNS - len(row), *row.shape[1:]), 1.0)]) for row in rows]
        save_image(image(torch.cat(full), columns=COLUMNS), samples / "classes.png")
        training = self.recipe.training_data()
        nearest = training[nearest_distance(made[:COLUMNS], training)[1]]
        save_image(image(torch.cat([made[:COLUMNS], nearest]), columns=COLUMNS), samples / "nearest.png")

    @staticmethod
    def rows(own: dict[str, Any]) -> list[tuple[str, str]]:
        classes, copies = own["classes"], own["copies"]
        return [
            ("classes reached", f"{classes['recovered']} of {classes['of']} by {own['n']} samples"),
            ("reverse KL of classes", f"{classes['reverse_kl']:.4f} (draws of the data: {classes['floor']:.4f})"),
            ("as clear as 95% of real digits", str(Proportion(**own["clear"]))),
            (
                "nearest training digit, drawn / test",
                f"{copies['drawn']:.3f} / {copies['fresh']:.3f} (medians; a copy has 0)",
            ),
            (
                "nearer to it than a test digit",
                f"{Proportion(**copies['interval'])} ({NEARER})",
            ),
        ]

    @staticmethod
    def cards(own: dict[str, Any]) -> list[Card]:
        clear, classes, copies = Proportion(**own["clear"]), own["classes"], own["copies"]
        interval = f"[{clear.low:.1%}, {clear.high:.1%}]"
        return [
            Card("as clear as real digits", f"{clear.value:.1%}", f"{interval}; 95% of test digits, by a reader"),
            Card(
                "reverse KL of classes",
                f"{classes['reverse_kl']:.4f}",
                f"{classes['recovered']} of {classes['of']} reached; draws of the data show {classes['floor']:.4f}",
            ),
            Card("to the nearest training digit", f"{copies['drawn']:.3f}", f"test digits {copies['fresh']:.3f}"),
        ]

    @staticmethod
    def sections(own: dict[str, Any], samples: Path) -> list[Section]:
        classes, copies, balls = own["classes"], own["copies"], own["balls"]
        clear, reader = Proportion(**own["clear"]), Proportion(**own["reader"])
        return [
            Section(
                "Ten classes",
                "The first samples that were read as 0, as 1, ... A support vector machine reads them: of real test "
                f"digits it reads {reader} right. A sample is clear if the machine decides it by as much as 95 percent "
                f"of the real test digits: {clear}.",
                [Picture(samples / "classes.png", "samples by the digit they were read as")],
                plots=[
                    plots.curves(
                        list(range(CLASSES)),
                        {"samples": classes["shares"], "training data": classes["data"]},
                        title="share of each class",
                        xlabel="class",
                    )
                ],
            ),
            Section(
                "Beside what it learnt from",
                "Samples, and below each the training digit nearest to it. A sample is nearer to its nearest training "
                f"digit than a test digit is to its own with probability {Proportion(**copies['interval'])}: {NEARER}. "
                f"{Proportion(**copies['copied'])} of the samples are nearer than all but 5 percent of test digits.",
                [Picture(samples / "nearest.png", "samples and their nearest training digits")],
            ),
            Section(
                "Where the digits are, and everywhere they are",
                f"By the {balls['drawn']['k']} nearest neighbours among {balls['drawn']['real']} test digits and "
                f"{balls['drawn']['fake']} samples, or as many training digits instead. Precision: samples within the "
                "reach of the test digits; recall: test digits within the reach of the samples.",
                table=Table(
                    ("", "precision", "recall", "density", "coverage"),
                    [
                        [
                            name,
                            *(f"{balls[key][v]:.3f}" for v in ("precision", "recall", "density", "coverage")),
                        ]
                        for name, key in (("samples", "drawn"), ("training digits", "training"))
                    ],
                ),
            ),
        ]


def _balls(real: Tensor, x: Tensor) -> Any:
    """Precision, recall, density and coverage of as many x as there are real ones."""
    n = min(len(real), len(x))
    return prdc(real.flatten(1), x[:n].flatten(1), k=5)


@dataclass(frozen=True)
class Wasserstein:
    """What the critic of a Wasserstein game claims, beside the distance between samples."""

    recipe: SingleDigits

    def judged(self, made: Tensor, folder: Path) -> dict[str, Any]:
        test, training = self.recipe.test_data(), self.recipe.training_data()
        critic = self.recipe.trained(folder).critic.to(made.device)
        n = min(len(made), len(test))
        fake, fresh, seen = (v[:n] for v in (made, test, training))
        found = {}
        for name, real in (("training", training), ("test", test)):
            a, b = logits(critic, real).double(), logits(critic, made).double()
            error = (a.var() / len(a) + b.var() / len(b)).sqrt()
            found[name] = {"value": float(a.mean() - b.mean()), "stderr": float(error)}
        with torch.no_grad():
            off = gradient_penalty(critic, seen[: len(fake)], fake, 1.0, generator=generator(self.recipe.seed))
        return {
            "n": n,
            "critic": found,
            "slope_off": float(off.mean().sqrt()),
            "between": {
                "test": float(wasserstein1(fake, fresh)),
                "training": float(wasserstein1(fake, seen)),
                "floor": float(wasserstein1(seen, fresh)),
            },
        }

    @staticmethod
    def rows(own: dict[str, Any]) -> list[tuple[str, str]]:
        critic, between = own["critic"], own["between"]
        said = ", ".join(f"{row['value']:.4f} ± {row['stderr']:.4f} ({name})" for name, row in critic.items())
        return [
            ("Wasserstein-1 by the critic", said),
            (
                f"between {own['n']} samples, exactly",
                f"{between['test']:.4f} to test, {between['training']:.4f} to training digits; "
                f"{between['floor']:.4f} from these to those",
            ),
            ("the critic's slope off 1", f"{own['slope_off']:.3f} (root mean square)"),
        ]

    @staticmethod
    def section(own: dict[str, Any]) -> Section:
        critic, between = own["critic"], own["between"]
        return Section(
            "How far it is",
            "The critic's difference of means is a lower bound of the distance between the laws as far as its slope is "
            f"at most 1 (it is off 1 by {own['slope_off']:.3f}, root mean square, between data and samples); what it "
            "claims of training digits and not of test digits, it has learnt by heart. Between "
            f"{own['n']} samples and as many data the distance is computed exactly; in 64 dimensions nearly all of it "
            "is that two samples never meet, as training digits against test digits show.",
            table=Table(
                ("", "to training digits", "to test digits"),
                [
                    ["the critic's", *(f"{row['value']:.4f} ± {row['stderr']:.4f}" for row in critic.values())],
                    [f"between {own['n']} samples", f"{between['training']:.4f}", f"{between['test']:.4f}"],
                    ["between training digits", "", f"{between['floor']:.4f}"],
                ],
            ),
        )


@dataclass(frozen=True)
class Stacked:
    """Samples of three digits each."""

    recipe: StackedDigitsGAN

    def judged(self, made: Tensor, model: GAN, samples: Path, track: Track) -> dict[str, Any]:
        recipe, n = self.recipe, self.recipe.judging.read
        save_image(recipe.image(made[:48], columns=12), samples / "colours.png")
        real, modes = recipe.data.draw("test", n, recipe.seed * 1009 + READ)
        advance = track("drawing for the reader", n)
        drawn = recipe.draw(model, n, recipe.seed, advance).cpu()
        right = int((read_stacked(real) == modes).sum())
        return {
            "n": n,
            "balance": recipe.data.balance,
            "reader": asdict(wilson(right, n)),
            "expected": expected_modes(n, recipe.data.shares()),
            "drawn": self.modes(drawn),
            "data": self.modes(real),
        }

    def modes(self, x: Tensor) -> dict[str, Any]:
        """Which modes the reader finds in x, how often, and which among those whose channels are all clear."""
        read = read_stacked(x)
        found = asdict(class_coverage(read, MODES, self.recipe.data.shares()))
        digits = torch.stack([read // 100, read // 10 % 10, read % 10])
        legible = clear(x.reshape(-1, 1, *x.shape[2:]), "grey").reshape(x.shape[:2])
        return found | {
            "digits": [(row.bincount(minlength=CLASSES) / len(row)).tolist() for row in digits],
            "clear": asdict(wilson(int(legible.sum()), legible.numel())),
            "reached_clearly": len(read[legible.all(1)].unique()),
        }

    @staticmethod
    def rows(own: dict[str, Any]) -> list[tuple[str, str]]:
        drawn, data = own["drawn"], own["data"]
        return [
            (
                f"modes reached by {own['n']:,} samples",
                f"{drawn['recovered']} of {drawn['of']} (data {data['recovered']}, {own['expected']:.1f} expected)",
            ),
            ("modes reached by clear samples", f"{drawn['reached_clearly']} (data {data['reached_clearly']})"),
            (
                "reverse KL of modes",
                f"{drawn['reverse_kl']:.4f} (data {data['reverse_kl']:.4f}; floor {drawn['floor']:.4f})",
            ),
            ("as clear as 95% of real digits", f"{Proportion(**drawn['clear'])} of channels"),
            ("the reader on stacked test digits", f"{Proportion(**own['reader'])} right in all channels"),
        ]

    @staticmethod
    def cards(own: dict[str, Any]) -> list[Card]:
        drawn, data, clear = own["drawn"], own["data"], Proportion(**own["drawn"]["clear"])
        return [
            Card(
                f"modes reached of {drawn['of']:,}",
                f"{drawn['recovered']}",
                f"by {own['n']:,} samples; data {data['recovered']}",
            ),
            Card(
                "reverse KL of modes",
                f"{drawn['reverse_kl']:.4f}",
                f"nats; data {data['reverse_kl']:.4f}, floor {drawn['floor']:.4f}",
            ),
            Card("as clear as real digits", f"{clear.value:.1%}", "of channels; 95% of test digits, by a reader"),
        ]

    @staticmethod
    def sections(own: dict[str, Any], samples: Path) -> list[Section]:
        drawn, data, reader = own["drawn"], own["data"], Proportion(**own["reader"])
        places = ("first", "second", "third")
        return [
            Section(
                "A thousand modes",
                f"A reader of digits reads each channel of {own['n']:,} samples, and of as many stacked test digits, "
                f"of which it reads {reader} right in all three. Draws of the law itself reach {own['expected']:.1f} "
                f"modes on average, and their reverse KL is {drawn['floor']:.4f} nats: a finite sample never shows 0. "
                "Whatever is drawn is read as something, so modes are also counted of samples alone whose channels are "
                "all as clear as 95 percent of real digits. "
                + (
                    "All modes are equally frequent."
                    if own["balance"] == 1
                    else f"The rarest digit is {own['balance']:.3g} times as frequent as the commonest."
                ),
                [Picture(samples / "colours.png", "samples, the channels as red, green and blue")],
                plots=[
                    plots.curves(
                        list(range(CLASSES)),
                        dict(zip(places, drawn["digits"], strict=True)) | {"data": data["digits"][0]},
                        title="share of each digit, by channel",
                        xlabel="digit",
                    )
                ],
                table=Table(
                    ("", "modes reached", "reverse KL, nats", "clear channels", "modes of clear samples"),
                    [
                        [
                            name,
                            f"{row['recovered']} of {row['of']}",
                            f"{row['reverse_kl']:.4f}",
                            str(Proportion(**row["clear"])),
                            str(row["reached_clearly"]),
                        ]
                        for name, row in (("samples", drawn), ("test digits, stacked", data))
                    ],
                ),
            ),
        ]
