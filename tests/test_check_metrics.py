"""Laws of metrics, those of diffusion that mutations asked for, and the pictures of the adversarial ones."""

from __future__ import annotations

import pytest

from jensen import check
from jensen.check.laws import adversarial, diffusion_more, metrics, training


@pytest.mark.parametrize("law", [*metrics.LAWS, *diffusion_more.LAWS], ids=lambda v: v.name)
def test_laws(law):
    outcome = check.run(law)
    assert not outcome.error, outcome.error
    outcome.report.require()


@pytest.mark.parametrize("law", [v for v in (*adversarial.LAWS, *training.LAWS) if v.plot], ids=lambda v: v.name)
def test_pictures(law):
    text = law.plot()
    assert text.startswith("<svg")
    assert text.count("<path") > 5


def test_four_laws_are_drawn():
    drawn = {law.name for law in (*adversarial.LAWS, *training.LAWS) if law.plot}
    assert drawn == {"wasserstein/parallel-lines", "packing/lost-mode", "errata/mode-collapse", "bilinear/descent"}
