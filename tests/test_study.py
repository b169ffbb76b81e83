"""The study of CAPTCHA pictures: each estimator against an exact value or a positive control, and the command."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

import jensen
from jensen.core.progress import silent
from jensen.core.seeding import generator
from jensen.data.captcha import Style, held_out
from jensen.data.fonts import font_path
from jensen.data.pool import from_bytes
from jensen.data.space import Text
from jensen.metrics import Proportion, mean_over_pairs, memorisation, nearest_distance, nearness, relative, wilson
from servers import missing
from tiny import COMMON, TINY

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import captcha_study
from study import copies, diversity, legibility, resistance
from study.page import than
from study.pictures import SMALL, Store, Study, fitted, in_data, labels, reduced, share

LOOKS = Style(
    *("ACDEFH", 4, 24, 72),
    colour=True,
    shortest=3,
    fonts=("DroidSansMono", "cmtt10"),
    papers=("plain", "stripes"),
    inks=("red", "blue"),
)


def test_a_ratio_of_which_one_proportion_is_known():
    """If one has no error, the interval is that of the other, divided by it or dividing it."""
    found, ceiling = wilson(30, 40), Proportion(0.5, 0.5, 0.5, 10**9)
    ratio = relative(found, ceiling)
    assert ratio.value == 1.5
    assert (ratio.low, ratio.high) == pytest.approx((found.low / 0.5, found.high / 0.5))
    exact = relative(Proportion(0.3, 0.3, 0.3, 10**9), found)
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.4, 0.3 / found.high, 0.3 / found.low))
    with pytest.raises(ValueError, match=r"ceiling must be above 0, got 0.0%"):
        relative(found, wilson(0, 40))


def test_the_interval_of_a_ratio_covers_it():
    """Of 2,000 pairs of binomials with 0.9 of 200 and 0.96 of 300, 95 percent within 4 standard errors."""
    rng, p, q, many = generator(0), 0.9, 0.96, 2000
    drawn = [torch.binomial(torch.full((many,), float(n)), torch.tensor(s), rng) for n, s in ((200, p), (300, q))]
    found = [relative(wilson(int(a), 200), wilson(int(b), 300)) for a, b in zip(*drawn, strict=True)]
    covered = sum(ratio.low <= p / q <= ratio.high for ratio in found) / many
    assert abs(covered - 0.95) < 4 * (0.95 * 0.05 / many) ** 0.5


def test_a_mean_over_pairs_and_its_jackknife():
    """The mean without one draw, for each draw, by the same function of fewer draws."""
    x = torch.rand(7, 3, generator=generator(0), dtype=torch.float64)
    values = torch.cdist(x, x)
    found = mean_over_pairs(values)
    assert found.value == pytest.approx(float(values.sum() / 42))
    kept = [[k for k in range(7) if k != i] for i in range(7)]
    without = torch.tensor([mean_over_pairs(values[rows][:, rows]).value for rows in kept], dtype=torch.float64)
    assert found.stderr == pytest.approx(float((6 / 7 * (without - without.mean()).square().sum()) ** 0.5))
    with pytest.raises(ValueError, match="at least 3 draws, got 2"):
        mean_over_pairs(torch.zeros(2, 2))


def test_memorisation_from_known_distances():
    train, x, fresh = (torch.randn(n, 3, generator=generator(n)) for n in (50, 30, 40))
    distances = (nearest_distance(rows.double(), train)[0] for rows in (x, fresh))
    assert nearness(*distances) == memorisation(x, train, fresh)
    found = nearness(torch.tensor([1.0, 4.0, 49.0, 60.0]), torch.arange(101.0))  # of which 5% are below 5
    assert (found.copied, found.drawn, found.fresh) == (wilson(2, 4), 26.5, 50)
    assert found.nearer == pytest.approx((99.5 + 96.5 + 51.5 + 40.5) / 404)


def test_a_ratio_of_means():
    """Means 2 and 4, variances 2 and 8 of two draws: the error of the logarithm is (1/4 + 1/4)^(1/2)."""
    found = copies.ratio_of_means(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 6.0]))
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx(
        [0.5 * 2.718281828 ** (s * 1.96 * 0.5**0.5) for s in (-1, 1)], rel=1e-4
    )


def test_labels_are_held_out_texts_in_all_styles():
    many = labels(LOOKS, 800, "test", "x")
    assert all(held_out(label.split()[0]) for label in many)
    assert len({tuple(label.split()[1:]) for label in many}) == 8
    known = in_data(LOOKS, many).double()
    assert abs(known.mean() - 0.25) < 4 * (0.25 * 0.75 / 800) ** 0.5  # half of the papers, half of the inks
    assert not any(held_out(label.split()[0]) for label in labels(LOOKS, 50, "train", "x"))


def test_legibility_by_hand():
    """Asked ab, ba, b, aa, read ab, ab, b, ab: 2 of 4 texts and 5 of 8 characters; shuffled, 1 of 4 texts."""
    texts = Text("ab ", 2, 1)
    asked, made = (texts.encode(rows) for rows in (["ab", "ba", "b", "aa"], ["ab", "ab", "b", "ab"]))
    groups = {"short": torch.tensor([False, False, True, False]), "none": torch.zeros(4, dtype=torch.bool)}
    found = legibility.judged("x", made, asked, asked, groups, texts)
    assert (found.samples, found.real) == (wilson(2, 4), wilson(4, 4))
    assert found.relative == relative(wilson(2, 4), wilson(4, 4))
    assert found.characters == wilson(5, 8)
    assert found.shuffled == wilson(1, 4)
    assert found.parts == {"short": (wilson(1, 1), wilson(1, 1)), "none": (None, None)}
    assert found.confused == [("a", "b", 2), ("b", "a", 1)]


def test_what_a_program_says_is_a_text_or_wrong():
    texts = Text("ab ", 3, 2)
    rows = legibility.as_characters(["ab", "abb", "abba", "x", ""], texts)
    assert rows.tolist() == [[0, 1, 2], [0, 1, 1], *[[-1] * 3] * 3]


def test_the_program_reads_printed_text():
    if legibility.scanner() is None:
        missing("tesseract is not installed (apt-get install tesseract-ocr)")
    image = Image.new("L", (144, 48), "white")
    ImageDraw.Draw(image).text((12, 6), "K7MPX", font=ImageFont.truetype(str(font_path("DejaVuSans")), 30))
    texts = Text("ACDEFHJKLMNPRTVWXY234679 ", 6, 5)
    x = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 1, 48, 144)
    assert texts.decode(legibility.scan(x, texts)) == ["K7MPX"]


def test_combinations_that_are_reached():
    """Of four pictures two have the same combination: one of six pairs; (1, 0, 1) never occurs in data."""
    known = [row for row in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist() if LOOKS.together(*row)]
    assert known == [[0, 0, 0], [1, 1, 1]]
    found = diversity.reached("x", torch.tensor([[0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 0, 1]]), LOOKS)
    assert (found.combinations, found.n, found.unknown) == (3, 4, wilson(1, 4))
    assert found.same.value == pytest.approx(1 / 6)


def test_pictures_that_are_apart():
    """Two pictures of 0 and two of 30 levels: of the six distances four are 30, and two are 0."""
    x = torch.tensor([0, 0, 30, 30], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 8, 8)
    network = nn.Module()
    network.features = nn.Flatten()
    apart, same = diversity.spread([("x", x), ("same", x[:1].expand(4, 1, 8, 8))], network, x)
    assert (apart.pixels.value, apart.features.value) == pytest.approx((20, 1))
    assert (same.pixels, same.features) == (Proportion(0.0, 0.0, 0.0, 4),) * 2


class Drawn:
    """A run that hands out pictures, and counts them; it fails at `fails`."""

    def __init__(self, run, pictures=None, fails=None):
        self.recipe, self.space, self.model = run.recipe, run.space, run.model
        self.pictures, self.fails, self.count = pictures, fails, 0

    def draw(self, n, *, cond, seed):
        self.count += n
        if self.fails is not None and self.count > self.fails:
            raise KeyboardInterrupt
        if self.pictures is not None:
            return self.pictures[:n]
        return torch.rand(n, *self.space.shape, generator=generator(seed)) * 2 - 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of two steps by name."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("captcha-release", "captcha-release-reader", "captcha-release-second-reader", "captcha"):
        jensen.train(name, folder / name, steps=2, settings=TINY[name] | COMMON | {"training.previews": 0})
    return folder


@pytest.fixture
def study(runs, tmp_path):
    run = captcha_study.opened(runs / "captcha-release")
    first, second = (str(runs / f"captcha-release-{name}reader") for name in ("", "second-"))
    return Study(run, *captcha_study.readers(run, first, second), SMALL, Store(tmp_path / "kept"), silent)


def test_an_interrupted_study_goes_on(study, monkeypatch):
    monkeypatch.setattr("study.pictures.PART", 8)
    names = labels(study.style, 20, "test", "x")
    whole = replace(study, store=Store(study.store.folder / "other"), run=Drawn(study.run)).drawn("x", names)
    with pytest.raises(KeyboardInterrupt):
        replace(study, run=Drawn(study.run, fails=8)).drawn("x", names)
    rest = Drawn(study.run)
    again = replace(study, run=rest)
    assert torch.equal(again.drawn("x", names), whole)
    assert rest.count == 12
    assert again.drawn("x", names).unique(dim=0).shape == whole.shape


def test_copies_are_found_and_fresh_pictures_are_not(study, monkeypatch):
    """Copies are at distance 0, controls are nearer than fresh pictures, and other pictures of the drawer are not."""
    n, origin = study.sizes.known, copies.first_named(study)[1]
    assert torch.equal(study.painted(range(20))[1], study.run.open_data().train.tensors["x"][:20])
    monkeypatch.setattr(copies, "FEW", 0.25)
    held, known, noise, moved, few = copies.measure(replace(study, run=Drawn(study.run, from_bytes(origin)))).rows
    for row in (held, known):
        assert (row.ratio.value, row.ratio.high, row.test.nearer) == (0, 0, 1)
    for row in (noise, moved):
        assert row.test.nearer > 0.95
        assert row.test.p_value < 1e-6
    assert few.n == study.sizes.asked == 20
    assert few.test.copied.value >= 0.25  # 5 of 20
    fresh = study.random("fresh", study.style, n, "test", 5)[1]
    other = Store(study.store.folder / "other")
    row = copies.measure(replace(study, run=Drawn(study.run, from_bytes(fresh)), store=other)).rows[1]
    assert row.test.interval.low < 0.5 < row.test.interval.high
    assert row.ratio.low < 1 < row.ratio.high


def test_an_attacker_learns_what_is_labelled(study):
    """Two kinds of pictures, dark on the left or on the right: a few steps suffice, and none change nothing."""
    x = torch.full((64, 1, 16, 32), 255, dtype=torch.uint8)
    kinds = torch.arange(64) % 2
    x[kinds == 0, :, :, :16], x[kinds == 1, :, :, 16:] = 0, 0
    texts = Text("ab", 1)
    start, minutes = fitted(study, "x", x, kinds[:, None], texts, steps=1)
    reader, _ = fitted(study, "x", x, kinds[:, None], texts, steps=60, rate=2e-3, start=start.network)
    assert float((reader.read(from_bytes(x))[:, 0] == kinds).double().mean()) > 0.9
    same, _ = fitted(study, "x", x, kinds[:, None], texts, steps=1, rate=1e-9, start=reader.network)
    assert torch.equal(same.read(from_bytes(x)), reader.read(from_bytes(x)))
    assert minutes > 0
    again, spent = fitted(study, "x", x, kinds[:, None], texts, steps=1)
    assert spent == minutes
    assert all(torch.equal(a, b) for a, b in zip(start.network.parameters(), again.network.parameters(), strict=True))


def test_the_attacker_has_other_fonts_and_small_pictures(study):
    style = resistance.classical(study.style)
    assert not set(style.fonts) & set(study.style.fonts)
    assert (style.papers, style.height, style.width) == (("plain",), 24, 72)
    made = resistance.own_pictures(study, style, 4, "test")
    assert made[1].shape == reduced(torch.zeros(4, 3, 48, 144)).shape
    assert made[0].shape == (4, 6)


def test_reduced_pictures_are_means():
    x = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2).repeat(1, 1, 24, 24)
    assert reduced(x).unique().tolist() == [2]  # 1.5, rounded to even
    assert torch.equal(reduced(x[:, :, :24]), x[:, :, :24])


def test_shares_are_compared_by_the_interval_of_their_difference():
    """The intervals of 36% and 50% overlap; that of their difference, by hand -0.270 to -0.003, does not hold 0."""
    assert wilson(36, 100).high > wilson(50, 100).low
    assert [than(wilson(k, 100), wilson(50, 100)) for k in (10, 36, 40, 90)] == [
        "less than",
        "less than",
        "not distinguishable from",
        "more than",
    ]
    assert share(torch.zeros(0)) is None


@pytest.fixture
def command(runs, tmp_path, monkeypatch, capsys):
    """Calls the command with arguments; returns its exit code, the page and what it wrote to standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["captcha_study.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            captcha_study.typer.run(captcha_study.main)
        page = tmp_path / "docs" / "captcha.md"
        return ended.value.code, page.read_text() if page.exists() else "", capsys.readouterr().err

    return call


def test_the_command_writes_the_page(runs, command, monkeypatch):
    given = ("--reader", runs / "captcha-release-reader", "--second", runs / "captcha-release-second-reader", "--small")
    code, page, said = command(runs / "captcha-release", *given)
    assert (code, said) == (0, "")
    found = json.loads(Path("docs/captcha/numbers.json").read_text())
    for reader in found["legibility"]["readers"]:
        assert str(Proportion(**reader["samples"])) in page
        assert f"| {reader['name']}" in page
    for row in found["resistance"]["attacks"]:
        assert f"| {row['labelled']:,} " in page
        assert str(Proportion(**row["read"])) in page
    assert [row["labelled"] for row in found["resistance"]["attacks"]] == [0, 4, 16]
    for row in found["diversity"]["found"]:
        assert f"| {row['kind']} " in page
    assert "A trial at tiny sizes" in page
    assert not {"{{", "}}", "{%", "None", "nan"} & set(page.split())
    shown = {line.split("](captcha/")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")}
    assert shown == {path.name for path in Path("docs/captcha").glob("*.png")}

    def nothing(*_, **__):
        raise AssertionError("drawn again")

    monkeypatch.setattr(captcha_study, "say_expected", lambda _: None)
    monkeypatch.setattr("jensen.runs.opening.Run.draw", nothing)
    assert command(runs / "captcha-release", *given)[:2] == (0, page)


def test_a_run_without_styles_and_without_a_second_reader(runs, command):
    code, page, said = command(runs / "captcha", "--small")
    assert (code, said) == (0, "")
    assert "There is no second reader for this run: not measured." in page
    assert "styles" not in page.split("## Diversity")[1].split("## Memorisation")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run folder nowhere"),
        (["captcha-reader"], "RUN must draw CAPTCHAs from their texts, got captcha-reader, a run of captcha-reader"),
        (["{runs}/captcha", "--reader", "{runs}/captcha"], "--reader must be a run that reads texts, got"),
        (
            ["{runs}/captcha", "--second", "{runs}/captcha-release-reader"],
            "--second must read pictures of shape (1,",
        ),
        (["{runs}/captcha", "--out", "{runs}/captcha/config.json"], "config.json: File exists"),
    ],
)
def test_what_cannot_be_studied_is_refused_in_a_sentence(runs, command, arguments, message):
    code, page, said = command(*(word.format(runs=runs) for word in arguments), "--small")
    assert (code, page) == (2, "")
    assert said.startswith("captcha_study: ")
    assert message in said
    assert said.count("\n") == 1


def test_a_run_without_a_reader_is_refused(runs, command, monkeypatch):
    monkeypatch.setattr("jensen.recipes.sources.captcha.READERS", ())
    code, _, said = command(runs / "captcha", "--small")
    assert (code, said.count("\n")) == (2, 1)
    assert "there is no reader of the pictures of" in said
