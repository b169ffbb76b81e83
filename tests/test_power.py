"""Power-function averages: profiles by quadrature, updates by their closed form, reconstruction within its bound."""

from __future__ import annotations

import math
import shutil

import mpmath
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrizations

import jensen
from jensen.cli.main import main
from jensen.training import (
    WIDEST,
    Profile,
    begin_average,
    exponent,
    power_decay,
    reconstruct,
    reconstruction,
    relative_width,
    update_average,
)
from test_cli import refused
from test_resume import files, going_on, words

WIDTHS = (0.05, 0.1)
FAST = ("training.warmup=0", "training.decay=0.01")  # weights move to the end


def integral(f, *points):
    return float(mpmath.quad(f, [mpmath.mpf(p) for p in points]))


def density(p):
    return lambda tau: (p.gamma + 1) * tau**p.gamma / mpmath.mpf(p.t) ** (p.gamma + 1) if tau <= p.t else mpmath.mpf(0)


# -- profiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.7, 6.94, 16.97])
def test_a_profile_is_a_density_whose_standard_deviation_is_its_relative_width(gamma):
    p = Profile(gamma, 3.0)
    mass, mean, square = (integral(lambda tau, k=k: tau**k * density(p)(tau), 0, 3) for k in range(3))
    assert mass == pytest.approx(1, abs=1e-12)
    assert mean == pytest.approx(3 * (gamma + 1) / (gamma + 2), abs=1e-12)
    assert math.sqrt(square - mean**2) / 3 == pytest.approx(relative_width(gamma), abs=1e-12)
    taus = np.array([-1.0, 0.5, 2.9, 3.0, 3.1])
    assert p(taus) == pytest.approx([0.0, *(float(density(p)(t)) for t in (0.5, 2.9, 3.0)), 0.0])


@pytest.mark.parametrize("width", [0.001, 0.01, 0.05, 0.1, 0.25, 0.2886, WIDEST])
def test_the_exponent_of_a_width_has_this_width(width):
    assert relative_width(exponent(width)) == pytest.approx(width, rel=1e-10)


def test_exponents_of_the_paper():
    assert [round(exponent(w), 2) for w in WIDTHS] == [16.97, 6.94]
    assert exponent(WIDEST) == pytest.approx(0, abs=1e-12)
    for wrong in (0.0, -0.1, 0.29, math.nan):
        with pytest.raises(ValueError, match=f"width must be from 1e-06 to 0.2887, got {wrong}"):
            exponent(wrong)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (Profile(2.0, 5.0), Profile(2.0, 5.0)),
        (Profile(6.94, 5.0), Profile(16.97, 5.0)),
        (Profile(6.94, 2.0), Profile(16.97, 5.0)),
        (Profile(6.94, 5.0), Profile(16.97, 2.0)),
        (Profile(0.0, 1.0), Profile(0.5, 7.0)),
    ],
)
def test_inner_products_are_the_integrals(p, q):
    exact = integral(lambda tau: density(p)(tau) * density(q)(tau), 0, min(p.t, q.t))
    assert p.inner(q) == pytest.approx(exact, rel=1e-12)
    assert q.inner(p) == p.inner(q)


# -- the average ------------------------------------------------------------------------------------------------------


def averaged(path, width):
    """The average of a path of weights, (T, d), by its updates; one value for each step."""
    model = nn.Linear(path.shape[1], 1, bias=False).double()
    average, found = begin_average(model), []
    for step, weights in enumerate(path):
        model.weight.data.copy_(weights)
        update_average(average, model, power_decay(width)(step))
        found.append(average.weight.detach()[0].clone())
    return torch.stack(found)


@pytest.mark.parametrize("width", [0.03, 0.1, WIDEST])
def test_an_average_weighs_each_step_by_the_integral_of_its_profile(width):
    """Each unit path w_k = [k = j] gives the weight of step j: ((j / t)^(gamma + 1) - ((j - 1) / t)^(gamma + 1))."""
    n, power = 40, exponent(width) + 1
    found = averaged(torch.eye(n, dtype=torch.float64), width)
    steps = torch.arange(1, n + 1, dtype=torch.float64)
    for t in (1, 2, n):
        exact = ((steps / t) ** power - ((steps - 1) / t) ** power) * (steps <= t)
        torch.testing.assert_close(found[t - 1], exact, rtol=0, atol=1e-14)
    profile = Profile.of(width, n)
    assert found[-1, 20].item() == pytest.approx(integral(density(profile), 20, 21), abs=1e-12)


# -- reconstruction ---------------------------------------------------------------------------------------------------


def stored(n, t=1.0, widths=WIDTHS):
    return [Profile.of(width, t * (k + 1) / n) for k in range(n) for width in widths]


@pytest.mark.parametrize("width", [0.03, 0.07, 0.2])
def test_coefficients_are_the_constrained_least_squares_on_a_grid(width):
    """The same problem on 200,000 points of time: its error is at most ours, and ours is the norm of our residual."""
    kept, wanted = stored(4), Profile.of(width, 1.0)
    x, error = reconstruction(kept, wanted)
    tau = (np.arange(200_000) + 0.5) / 200_000
    profiles, target = np.stack([p(tau) for p in kept], 1), wanted(tau)
    rest = profiles[:, :-1] - profiles[:, -1:]  # sum to one: the last coefficient is one minus the others
    best = np.linalg.lstsq(rest, target - profiles[:, -1], rcond=None)[0]
    assert x.sum().item() == pytest.approx(1, abs=1e-9)
    assert x[:-1].numpy() == pytest.approx(best, abs=2e-3)
    residual = np.linalg.norm(profiles @ x.numpy() - target) / np.linalg.norm(target)
    assert error == pytest.approx(residual, rel=1e-3)
    assert residual == pytest.approx(np.linalg.norm(rest @ best + profiles[:, -1] - target) / np.linalg.norm(target))


@pytest.mark.parametrize(
    ("width", "error"),
    [(0.02, 4e-2), (0.03, 1.2e-2), (0.05, 1e-6), (0.07, 1e-3), (0.1, 1e-6), (0.15, 2.4e-3), (0.2, 7e-3)],
)
def test_thirty_two_snapshots_give_widths_to_a_stated_error(width, error):
    assert reconstruction(stored(32), Profile.of(width, 1.0))[1] < error
    assert reconstruction(stored(64), Profile.of(width, 1.0))[1] < max(error / 2.5, 1e-6)


def paths(n):
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    walk = torch.randn(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64).cumsum(0) / n**0.5
    return {"constant": torch.full_like(t, 5.0), "line": t, "wave": (20 * t).cos(), "random walk": walk}


@pytest.mark.parametrize("width", [0.03, 0.05, 0.07, 0.15, 0.2])
def test_a_reconstruction_is_the_direct_average_within_its_bound(width):
    """For 640 steps and 32 snapshots; smooth paths and constants are much closer than the bound of Cauchy-Schwarz."""
    n = 640
    path = torch.stack(list(paths(n).values()), 1)
    direct, times = averaged(path, width)[-1], range(20, n + 1, 20)
    both = [averaged(path, w) for w in WIDTHS]
    wanted = Profile.of(width, n)
    x, error = reconstruction([Profile.of(w, t) for t in times for w in WIDTHS], wanted)
    states = [{"weight": average[t - 1][None]} for t in times for average in both]
    model = nn.Linear(path.shape[1], 1, bias=False).double()
    reconstruct(model, states, x)
    gap = (model.weight.detach()[0] - direct).abs()
    bound = error * wanted.inner(wanted) ** 0.5 * (path - path.mean(0)).square().sum(0).sqrt()
    assert (gap <= bound + 1e-6).all()
    assert gap[0] < 1e-7
    assert gap[1:].max() < {0.03: 2e-3, 0.2: 1e-3}.get(width, 2e-4)


def test_later_averages_and_none_are_refused():
    for wrong in ([], [Profile(1.0, 2.0)]):
        with pytest.raises(ValueError, match="stored averages must be at least one and none after step 1"):
            reconstruction(wrong, Profile(1.0, 1.0))
    with pytest.raises(ValueError, match="gamma must be at least 0, t positive, and both finite, got -1 and 2"):
        Profile(-1, 2)


def test_a_reconstructed_spectral_norm_is_one():
    torch.manual_seed(0)
    model = parametrizations.spectral_norm(nn.Linear(4, 3))
    averages = [begin_average(model) for _ in range(2)]
    model.parametrizations.weight.original.data.mul_(-3).add_(1)
    update_average(averages[1], model, 0.0)
    made = begin_average(model)
    reconstruct(made, [average.state_dict() for average in averages], torch.tensor([0.3, 0.7]))
    assert torch.linalg.svdvals(made.weight)[0].item() == pytest.approx(1, abs=1e-6)


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of 60 steps with 20 snapshots of two widths."""
    out = tmp_path_factory.mktemp("runs") / "ring"
    assert (
        main(
            words(out, "--no-evaluate", *set_("training.average=[0.05,0.1]", "training.snapshots=20", *FAST), steps=60)
        )
        == 0
    )
    return out


def set_(*settings):
    return [word for setting in settings for word in ("--set", setting)]


def test_a_run_is_opened_at_the_width_of_another_run_on_the_same_path(run, tmp_path):
    """Training does not depend on the average: the run of width 0.07 has the weights that this one reconstructs."""
    direct = tmp_path / "direct"
    assert main(words(direct, "--no-evaluate", *set_("training.average=[0.07,0.1]", *FAST), steps=60)) == 0
    exact, own = load_file(direct / "model.safetensors"), load_file(run / "model.safetensors")
    found = jensen.open(run, width=0.07)
    assert found.error < 3e-3
    for name, value in found.model.state_dict().items():
        torch.testing.assert_close(value, exact[name], rtol=0, atol=2e-5)
    assert max((exact[name] - own[name]).abs().max() for name in own) > 1e-3
    stored_one = jensen.open(run, width=0.05).model.state_dict()
    assert all(torch.allclose(value, own[name], rtol=0, atol=1e-6) for name, value in stored_one.items())


def test_a_width_is_sampled_exported_and_judged(capsys, run, tmp_path):
    out = tmp_path / "points.csv"
    assert main(["sample", str(run), "--width", "0.15", "-n", "4", "--out", str(out)]) == 0
    assert "average of width 0.15, reconstructed: its profile is exact within " in capsys.readouterr().err
    opened = jensen.open(run, width=0.15)
    opened.sample(4).save(tmp_path / "same.csv")
    assert (tmp_path / "same.csv").read_bytes() == out.read_bytes()
    with pytest.raises(ValueError, match=r"width must be the run's own to evaluate it, got 0\.15: export"):
        opened.evaluate()
    opened.export(tmp_path / "exported")
    again = jensen.open(tmp_path / "exported").model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in opened.model.state_dict().items())


def test_an_interrupted_run_has_the_same_averages_and_snapshots(run, tmp_path):
    whole = files(run / "averages")
    assert len(whole) == 2 * 20
    part = shutil.copytree(run, tmp_path / "part")
    for path in (part / "state").glob("*60.pt"):
        path.unlink()
    (part / "model.safetensors").unlink()
    (part / "averages" / "000000060-0.1.safetensors").write_bytes(b"cut")
    assert main(going_on(part)) == 0  # from step 58
    assert files(part / "averages") == whole
    assert (part / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_what_a_run_cannot_give_is_refused(capsys, run, tmp_path):
    sample = ["sample", str(run), "-n", "1", "--width"]
    said = "width must be one that 20 snapshots of 0.05 and 0.1 give within 10%, got 0.005 (56%)"
    refused(capsys, [*sample, "0.005"], said)
    refused(capsys, [*sample, "0.3"], "width must be from 1e-06 to 0.2887, got 0.3")
    plain = tmp_path / "plain"
    assert main(words(plain, "--no-evaluate")) == 0
    capsys.readouterr()
    refused(capsys, ["sample", str(plain), "--width", "0.1"], "has an exponential average, of one width")
    for word, part in (
        ("training.average=[0.1,0.1]", "must be two different widths, got [0.1, 0.1]"),
        ("training.average=[0.1,0.4]", "training.average must be at most 0.2886751346, got 0.4"),
        ("training.average=1.5", "training.average must be below 1, got 1.5"),
        ("training.snapshots=5", "training.snapshots is not used with an exponential average, got 5"),
    ):
        refused(capsys, ["train", "ring-gan", "--out", str(tmp_path / "new"), *set_(word)], part)
