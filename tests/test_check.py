"""Evidence, laws and the certificate: what passes, what fails, and how both are reported."""

from __future__ import annotations

import json
import math
from types import ModuleType

import pytest
import torch

from jensen.check import Evidence, Report, bounded, close, law, mean_is, means_are, run, run_all, select
from jensen.check.law import laws_of
from jensen.check.laws import FAMILIES
from jensen.check.page import mathematics, prose
from jensen.cli.main import main

LAWS = [law for laws in FAMILIES.values() for law in laws]


@pytest.mark.parametrize(
    ("relation", "measured", "holds"),
    [
        ("equal", 1.1, True),
        ("equal", 1.11, False),
        ("equal", 0.89, False),
        ("at most", -9.0, True),
        ("at most", 1.1, True),
        ("at most", 1.11, False),
        ("at least", 9.0, True),
        ("at least", 0.9, True),
        ("at least", 0.89, False),
        ("equal", math.nan, False),
        ("at least", math.inf, False),
        ("at most", -math.inf, False),
    ],
)
def test_a_claim_holds_within_its_tolerance_and_never_of_what_is_not_finite(relation, measured, holds):
    assert Evidence("c", 1.0, measured, 0.1 + 1e-12, relation).holds is holds


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relation": "about"}, "relation must be one of equal, at most, at least, got 'about'"),
        ({"tolerance": -1.0}, "tolerance must be at least 0"),
        ({"tolerance": math.nan}, "tolerance must be at least 0"),
        ({"expected": math.nan}, "expected must be finite"),
    ],
)
def test_evidence_that_says_nothing_is_refused(change, words):
    good = {"claim": "c", "expected": 1.0, "measured": 1.0, "tolerance": 0.0}
    with pytest.raises(ValueError, match=words):
        Evidence(**(good | change))


def test_the_entry_that_is_furthest_off_speaks_for_all():
    found = close("c", torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.1, 2.5, 2.9]), 0.2)
    assert (found.expected, found.measured, found.holds) == (2.0, 2.5, False)
    assert not close("c", 1.0, torch.tensor([1.0, math.nan]), 0.2).holds
    low = bounded("c", torch.tensor([3.0, 0.4, 2.0]), torch.tensor([1.0, 0.5, 0.0]), relation="at least")
    assert (low.expected, round(low.measured, 6), low.holds) == (0.5, 0.4, False)
    assert bounded("c", torch.tensor([-3.0, 0.0]), 0.0, relation="at most").holds


def test_means_are_allowed_so_many_standard_errors():
    x = torch.randn(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
    found = mean_is("c", 0.0, x)
    assert found.stderr == pytest.approx(3 / 100, rel=0.03)
    assert found.tolerance == pytest.approx(5 * found.stderr)
    assert found.holds
    assert not mean_is("c", 6 * 0.03 + 0.02, x).holds
    rows = torch.stack([x, x + 0.2], 1)
    assert means_are("c", torch.tensor([0.0, 0.2]), rows).holds
    off = means_are("c", torch.tensor([0.0, 0.0]), rows)
    assert (off.expected, off.holds) == (0.0, False)
    assert not mean_is("c", 0.0, torch.tensor([0.0, math.nan])).holds


def test_a_report_without_evidence_shows_nothing():
    assert not Report(()).holds
    with pytest.raises(AssertionError, match="there is no evidence"):
        Report(()).require()
    bad = Report((Evidence("fine", 1.0, 1.0, 0.0), Evidence("is two", 2.0, 1.0, 0.5)))
    with pytest.raises(AssertionError, match=r"FAILS: is two: 1 = 2 \(± 0.5\)"):
        bad.require()


def test_a_report_can_be_named_or_counted():
    report = Report((Evidence("fine", 1.0, 1.0, 0.0), Evidence("is two", 2.0, 1.0, 0.5)))
    assert [e.claim for e in report.named("mine")] == ["mine: fine", "mine: is two"]
    count = report.failures("mine")
    assert (count.claim, count.measured, count.holds) == ("mine: failed claims out of 2 (worst: is two)", 1.0, False)
    assert Report(report.evidence[:1]).failures().holds


@law("numbers/two")
def two(precision):
    """Two is two.

    $$2 = 2$$
    Since it
    is.

    And so on.
    Source: none.
    """
    yield Evidence("two", 2.0, 2.0, 0.0)
    yield mean_is("noise", 0.0, torch.randn(round(100 * precision)))


@law("numbers/three", "Two is three.\n\n$$2 = 3$$\nSource: none,\nof all sources.\nAssumes: nothing.")
def three(precision):
    yield Evidence("two", 3.0, 2.0, 0.0)


@law("broken/never", "This trial breaks off.\n\n$$0$$\nSource: none.")
def never(precision):
    raise RuntimeError("it broke")


FEW = {"numbers": [two, three], "broken": [never]}


def test_a_law_is_named_claimed_and_derived():
    assert (two.topic, two.claim, two.paragraphs) == ("numbers", "Two is two.", ["Since it is.", "And so on."])
    assert (two.formula, two.source, two.assumptions) == ("2 = 2", "none", "")
    assert (three.formula, three.source, three.assumptions) == ("2 = 3", "none, of all sources", "nothing")
    with pytest.raises(ValueError, match="a law's name must be topic/what, got 'two'"):
        law("two")(two.trial)
    for text in (None, "A claim.", "A claim.\n\n$$1$$\nNo source.", "A claim.\n\nSource: no formula."):
        with pytest.raises(ValueError, match="law a/b must state its claim, its formula in"):
            law("a/b", text)(lambda _: [])


def test_the_laws_of_a_module_are_found_in_order_alone_or_in_tables():
    module = ModuleType("module")
    module.__dict__.update(first=two, other=5, table=[three, never], again=(never,))
    assert [each.name for each in laws_of(module)] == ["numbers/two", "numbers/three", "broken/never", "broken/never"]
    with pytest.raises(ValueError, match="precision must be positive"):
        two(0.0)


def test_laws_are_selected_by_family_topic_or_name():
    assert select(FEW, []) == FEW
    assert select(FEW, ["numbers/two"]) == {"numbers": [two]}
    assert select(FEW, ["broken"]) == {"broken": [never]}
    with pytest.raises(ValueError, match=r"there is no law or family of laws 'nubers'; did you mean 'numbers'\?"):
        select(FEW, ["nubers"])


def test_running_a_law_is_reproducible_leaves_the_generator_alone_and_survives_what_breaks():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    outcomes = run_all([two, three, never])
    assert torch.equal(torch.get_rng_state(), before)
    assert [o.holds for o in outcomes] == [True, False, False]
    assert outcomes[2].error == "RuntimeError: it broke"
    torch.manual_seed(6)
    assert run(two).report == outcomes[0].report
    assert run(two, 2.0).report != outcomes[0].report


@pytest.mark.parametrize("each", LAWS, ids=lambda each: each.name)
def test_every_law_holds(each):
    """With half the number of draws; exact claims do not depend on it."""
    outcome = run(each, 0.5)
    assert not outcome.error, outcome.error
    outcome.report.require()


def test_every_law_says_what_it_is_and_is_one_of_its_name():
    names = [law.name for law in LAWS]
    assert len(set(names)) == len(names) == 155
    topics = {law.topic for law in LAWS}
    assert not topics & set(FAMILIES) - {law.topic for name in FAMILIES for law in FAMILIES[name] if law.topic == name}
    for each in LAWS:
        assert each.claim.endswith("."), each.name
        assert each.source, each.name


DRAWN = [each for each in LAWS if each.plot is not None]


def test_which_laws_are_drawn():
    topics = {each.topic for each in DRAWN} - {"dirac-gan"}
    assert topics == {
        *("wasserstein", "packing", "errata", "bilinear", "vdm", "ddim", "samplers", "score-matching", "langevin"),
        *("kernel-density", "marginal-likelihood", "iwae", "collapse", "autoencoder", "gradient", "gumbel"),
    }
    assert len(DRAWN) == 25


@pytest.mark.parametrize(
    "each", [v for v in DRAWN if v.topic not in ("samplers", "langevin", "dirac-gan")], ids=lambda v: v.name
)
def test_a_law_is_drawn(each):
    """Except for laws whose plots need a new simulation."""
    text = each.plot()
    assert text.startswith("<svg")
    assert text.count("<path") > 5


@pytest.mark.parametrize("each", LAWS, ids=lambda each: each.name)
def test_what_a_law_writes_can_be_set(each):
    assert "\\" not in mathematics(each.formula)
    for text in (each.claim, each.assumptions, *each.paragraphs):
        assert "\\" not in prose(text)
        assert text.count("$") % 2 == 0


def test_the_command_shows_a_law_writes_evidence_and_a_page(tmp_path, capsys):
    words = ["check", "dirac-gan/equilibrium", "--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "b.html")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "all 1 laws hold" in said
    found = json.loads((tmp_path / "a.json").read_text())
    assert [row["law"] for row in found] == ["dirac-gan/equilibrium"]
    assert all(e["holds"] for e in found[0]["evidence"])
    page = (tmp_path / "b.html").read_text()
    assert "<math" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_laws_run_in_processes_of_their_own_find_the_same():
    few = [law for law in LAWS if law.name in ("langevin/stationary", "stochastic-graph/unbiased")]
    alone, together = run_all(few), run_all(few, processes=2)
    assert [(o.law, o.report) for o in alone] == [(o.law, o.report) for o in together]


def test_a_law_that_fails_ends_with_one(monkeypatch, capsys):
    monkeypatch.setattr("jensen.cli.checking.FAMILIES", FEW)
    assert main(["check", "--processes", "1"]) == 1
    out, err = capsys.readouterr()
    assert "FAILS: two: 2 = 3" in out
    assert "RuntimeError: it broke" in out
    assert err == "jensen: 2 of 3 laws fail: numbers/three, broken/never\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dirc-gan"], "there is no law or family of laws 'dirc-gan'; did you mean 'dirac-gan'?"),
        (["dirac-gan", "--precision", "0"], "precision must be positive and at most 1000, got 0.0"),
        (["dirac-gan", "--processes", "0"], "processes must be at least 1, got 0"),
        (["dirac-gan", "--json", "x.txt"], "x.txt must end in .json"),
        (["dirac-gan", "--portrait", "x.svg"], "x.svg must end in .png"),
    ],
)
def test_what_the_command_refuses(words, said, capsys):
    assert main(["check", *words]) == 2
    assert said in capsys.readouterr().err
