"""Findings in text, as JSON and on the page; the page on a phone."""

from __future__ import annotations

import math
import re
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image

from jensen.metrics import wilson
from jensen.report import plots
from jensen.report.findings import Evaluation, Finding, Part, Picture, Table, proportion, rows
from jensen.report.page import cards, training_curves, write_page
from jensen.report.scatter import Classes, scatter
from jensen.training.journal import Journal
from jensen.training.strict_json import dumps, loads

COLUMN = 350  # pixels of text across on a phone of 390
EVIL = "<b>&\"'</b>"


# findings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (Finding("k", "n", 3.14159, 0.2, 0.5), "3.142 ± 0.2 (floor 0.5)"),
        (Finding("k", "n", -123.456, 0.341, form="nats"), "-123.46 ± 0.34 nats"),
        (Finding("k", "n", 0.001234, form="nats", floor=0.0), "0.001234 nats (floor 0)"),
        (Finding("k", "n", 12345.0, form="count"), "12,345"),
        (Finding("k", "n", 0.123456, interval=(0.11111, 0.22222)), "0.1235 [0.111, 0.222]"),
        (proportion("k", "n", wilson(95, 100), floor=1.0), "95.0% [88.8, 97.8] (floor 100.0%)"),
        (Finding("k", "n", -math.inf, form="nats"), "-inf nats"),
    ],
)
def test_a_finding_in_words(finding, words):
    assert str(finding) == words


def test_loss_and_spread_of_a_finding():
    """For Wilson's interval of 50 in 100 the error is, to first order, sqrt(0.25 / 100)."""
    losses = [Finding("k", "n", 0.25, best=best).loss() for best in ("low", "high", 1.0, None)]
    assert losses == [0.25, -0.25, 0.75, 0.0]
    assert Finding("k", "n", 1.0, 0.2).spread == 0.2
    assert proportion("k", "n", wilson(50, 100)).spread == pytest.approx(0.05, rel=0.03)
    assert math.isnan(Finding("k", "n", 1.0).spread)


EVALUATION = Evaluation(
    [
        Part("One", findings=[Finding("a", "A", math.inf, 0.5, best=0.5, note="noted", card=True)]),
        Part(
            "Two",
            findings=[
                proportion("b", "B", wilson(1, 3), floor=0.0),
                Finding(
                    "c", "C", -9.0, form="nats", facts={"kind": "exact", "measure": "mass", "dims": 4}, best="high"
                ),
            ],
            details={"more": {"rows": [1, 2]}},
        ),
    ],
    {"recipe": "r"},
)


def test_an_evaluation_comes_back_from_json():
    tree = loads(dumps(EVALUATION.as_dict()))
    back = Evaluation.parse(tree)
    assert dict(back) == dict(EVALUATION)
    assert (back.details, back.facts) == (EVALUATION.details, EVALUATION.facts)
    assert back.as_dict() == EVALUATION.as_dict()
    assert list(back) == ["a", "b", "c"]


def test_rows_of_the_terminal_are_the_findings_in_order():
    assert rows(EVALUATION) == [("A", "inf ± 0.5, noted"), ("B", "33.3% [6.1, 79.2] (floor 0.0%)"), ("C", "-9 nats")]


def test_a_key_is_given_once():
    with pytest.raises(ValueError, match="a unique key, got 'a' twice"):
        Evaluation([Part("One", findings=[Finding("a", "A", 1.0)]), Part("Two", findings=[Finding("a", "B", 2.0)])])


# the page -------------------------------------------------------------------------------------------------------------


def page_of(tmp_path, parts, **more):
    write_page(tmp_path / "page.html", more.pop("name", "x"), "A lead.", parts, {"key": 1}, **more)
    return (tmp_path / "page.html").read_text()


def test_nothing_of_a_users_is_markup(tmp_path):
    """Names, notes, captions, cells and code appear literally; the tags of plots, which jensen draws, are kept."""
    part = Part(
        EVIL,
        EVIL,
        [Finding("k", EVIL, 1.0, note=EVIL, card=True)],
        [Picture("p", Image.new("RGB", (2, 2)), EVIL, EVIL)],
        [plots.curves([1, 2], {EVIL: [1, 2], "b": [2, 1]}, title=EVIL, xlabel=EVIL)],
        [Table((EVIL,), [(EVIL,)], EVIL)],
        code=EVIL,
    )
    page = page_of(tmp_path, [part], name=EVIL)
    assert "<b>&" not in page
    assert unescape(page).count(EVIL) >= 15
    assert page.count("<svg") == 1
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_page_shows_findings_with_errors_floors_notes_and_bars(tmp_path):
    page = page_of(tmp_path, EVALUATION.parts)
    heads = re.findall(r"<tr><th></th>(.*?)</tr>", page)
    assert heads[0] == "<th>value</th><th>error</th><th></th>"  # no floor
    assert heads[1] == "<th>value</th><th>error</th><th>floor</th>"  # no note
    assert re.findall(r'<i style="width:([\d.]+)%"></i><u style="left:([\d.]+)%">', page) == [
        ("33.33333333333333", "0.0")
    ]
    assert page.count('class="card main"') == 1
    assert "-9 <small>nats</small>" in page
    assert [f.key for f in cards(EVALUATION.parts)] == ["a"]


def test_other_cards_can_be_shown_and_empty_parts_are_left_out(tmp_path):
    page = page_of(tmp_path, [Part("Nothing here"), *EVALUATION.parts], shown=[Finding("z", "Zed", 7.0)])
    assert "Nothing here" not in page
    assert re.findall(r'<span class="what">(.*?)</span>', page) == ["Zed"]
    assert 'class="cards"' not in page_of(tmp_path, EVALUATION.parts, shown=[])


# plots ----------------------------------------------------------------------------------------------------------------

LONG = ["a run of a rather long name", "another run of a long name"]
PLOTS = {
    "curves": plots.curves([1, 2, 4], {n: [1, 2, 3] for n in LONG}, title="losses", xlabel="steps"),
    "log": plots.curves([1, 2, 4], {"": [0.3, 0.2, 0.1]}, title="errors", xlabel="steps", log=True),
    "intervals": plots.intervals([1, 2], [{"value": 1, "low": 0, "high": 3}] * 2, title="t", xlabel="x"),
    "histograms": plots.histograms({n: [1.0, 2.0, 3.0] for n in LONG}, title="t", xlabel="x", ylabel="images"),
    "constant": plots.histograms({"a": [1.0, 1.0]}, title="t", xlabel="x"),
    "shares": plots.shares([0.2, 0.8], [0.5, 0.5], names=["cat", "dog"], title="t"),
    "bars": plots.bars(LONG, [1.0, 2.0], title="t", xlabel="x"),
    "rivals": plots.rivals(LONG, [(1.0, 0.1), (2.0, 0.1)], title="t", floor=(0.5, 0.1)),
    "complex": plots.complex_plane([[0.1, 0.2]], title="t"),
}


@pytest.mark.parametrize("name", PLOTS)
def test_every_text_of_a_plot_is_at_least_11_pixels_on_a_phone(name):
    svg = PLOTS[name]
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ?([\d.]+)px", svg)]
    assert len(sizes) >= 3
    assert min(sizes) * COLUMN / width >= 11


def test_a_single_line_needs_no_legend_and_two_have_one():
    assert "legend" not in PLOTS["log"]
    assert "legend" in PLOTS["curves"]
    for name in LONG:
        assert f">{name}</text>" in PLOTS["curves"]
    assert ">images</text>" in PLOTS["histograms"]
    assert ">cat</text>" in PLOTS["shares"]


def test_a_narrow_logarithmic_axis_has_ticks():
    """From 0.1 to 0.3 there is only one power of ten, so ticks are at 1, 2 and 5 times powers of ten."""
    assert {">0.1</text>", ">0.2</text>"} <= set(re.findall(r">[^<>]*</text>", PLOTS["log"]))


def test_a_bar_is_as_high_as_its_share():
    """The heights of bars of 20 and 80 percent have the ratio 1 to 4."""
    svg = plots.shares([0.2, 0.8], [0.5, 0.5], title="t")
    boxes = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: {plots.BLUE}', svg)
    spans = [[float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", box)] for box in boxes]
    heights = [max(s) - min(s) for s in spans[:2]]
    assert heights[1] / heights[0] == pytest.approx(4, rel=1e-3)


def test_a_histogram_ends_where_nearly_all_values_do():
    """Of 1,000 values three are far away: the axis still ends at 1."""
    svg = plots.histograms({"a": [k / 996 for k in range(997)] + [1e6] * 3}, title="t", xlabel="x")
    ticks = [float(v) for v in re.findall(r">([\d.]+)</text>", svg)]
    assert 1.0 in ticks
    assert max(ticks) <= 1000


def test_the_journal_as_plots(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for step in range(20):
        journal.write(step=step, seconds=step, loss=1.0, examples_per_second=5.0, **{"a/x": 1.0, "b/x": 2.0})
    drawn = training_curves(tmp_path, {"a/x b/x": "two of them", "none": "not written"})
    assert len(drawn) == 3
    assert "a/x" in drawn[1]
    assert "not written" not in "".join(drawn)
    assert training_curves(tmp_path / "elsewhere", {}) == []


def centre(image):
    """Red, green and blue of the pixels in the middle of an image, (N, 3)."""
    width, height = image.size
    x = np.asarray(image, dtype=float)[height // 3 : height // 2, 2 * width // 5 : 3 * width // 5]
    return x.reshape(-1, 3)


def test_neither_samples_nor_data_hide_the_other():
    """Of dense points of one distribution, both colours fill a good part of the middle."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 20_000, 2, generator=rng)
    image = scatter(x, behind=y, scale=2)
    assert image.size == (240, 180)
    seen = centre(image)
    blue = seen[:, 2] - seen[:, 0]  # 187 for a sample, 23 for data
    assert (blue > 120).mean() > 0.2
    assert (blue < 90).mean() > 0.2


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_points_are_coloured_by_class(columns):
    x = torch.randn(5000, columns, generator=torch.Generator().manual_seed(0))
    for names, orange in ((("all",), 0), (("cat", "dog"), 0.02)):
        index = torch.arange(5000) % len(names)
        seen = np.asarray(scatter(x, scale=2, classes=Classes(index, names)), dtype=float)
        share = (seen[..., 0] - seen[..., 2] > 100).mean()  # only the second colour is warm
        assert (share > 0) == (orange > 0)
