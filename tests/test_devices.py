"""Models and data on a device that is not the CPU: what is made on the CPU by mistake raises, without a GPU."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

import jensen
from jensen.adversarial import penalties
from jensen.core.seeding import generator, generators
from jensen.diffusion import SAMPLERS, Ancestral, AnnealedLangevin, CosineSchedule, integrate, time_grid
from jensen.judging import JUDGES
from jensen.recipes.settings import Training
from pretended import pretended
from stepping import FITTED, options, small, stepped
from tiny import COMMON, TINY


@pytest.fixture
def away(monkeypatch):
    """The pretended device, on which runs are trained and opened."""
    with pretended() as device:
        monkeypatch.setattr(Training, "torch_device", lambda _: device)
        yield device


# -- the rules, which are those of CUDA -------------------------------------------------------------------------------


class Doubled(torch.autograd.Function):
    """Multiplies by 2, with a factor that the backward pass makes on the CPU."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.full(grad.shape, 2.0)


def ones(home):
    return torch.ones(3, device=home)


def first(home):
    return torch.zeros(2, dtype=torch.long, device=home)


HERE = torch.device("cpu")
ALLOWED = {
    "a number of the CPU in an elementwise operation": lambda d: ones(d) + torch.tensor(1.0),
    "the same, in place": lambda d: ones(d).mul_(torch.tensor(2.0)),
    "the same, first": lambda d: torch.tensor(1.0) - ones(d),
    "the same, as the weight of a mean": lambda d: ones(d).lerp(ones(d), torch.tensor(0.5)),
    "the same, chosen": lambda d: torch.where(ones(d) > 0, ones(d), torch.tensor(0.0)),
    "a number of the CPU, written to an index": lambda d: ones(d).index_put_((first(d),), torch.tensor(2.0)),
    "a number of the CPU, written to a mask": lambda d: ones(d).masked_fill(ones(d) > 0, torch.tensor(2.0)),
    "an index of the CPU": lambda d: ones(d)[first(HERE)],
    "an index of the CPU, to be written to": lambda d: ones(d).index_put_((first(HERE),), ones(d)[:2]),
    "a list as an index": lambda d: ones(d)[[0, 2]],
    "copies to and from": lambda d: ones(HERE).copy_(ones(d)).to(d).copy_(ones(HERE)),
    "numbers and lists": lambda d: ones(d).sum().item() + sum(ones(d).tolist()),
    "numpy of a copy": lambda d: ones(d).cpu().numpy(),
    "values of a new tensor": lambda d: torch.tensor([1.0, 2.0], device=d) + ones(d)[:2],
    "a generator of the device": lambda d: torch.randn(3, generator=generator(0, d), device=d),
    "a backward pass": lambda d: ones(d).requires_grad_().square().sum().backward(),
    "an adaptive step": lambda d: moved(torch.optim.AdamW, ones(d)),
}
REFUSED = {
    "two tensors": lambda d: ones(d) + ones(HERE),
    "a row of one number": lambda d: ones(d) + ones(HERE)[:1],
    "a tensor that is written to": lambda d: ones(HERE).add_(ones(d)),
    "a number of the CPU that is written to": lambda d: torch.tensor(1.0).add_(ones(d)[0]),
    "a product of matrices": lambda d: ones(d) @ ones(HERE),
    "a stack of numbers": lambda d: torch.stack([ones(d)[0], torch.tensor(1.0)]),
    "a row of tensors": lambda d: torch.cat([ones(d), ones(HERE)]),
    "equality": lambda d: torch.equal(ones(d), ones(HERE)),
    "a choice between tensors": lambda d: torch.where(ones(HERE) > 0, ones(d), ones(d)),
    "an index on the device, of the CPU": lambda d: ones(HERE)[first(d)],
    "numbers of the CPU, written to an index": lambda d: ones(d).index_put_((first(d),), ones(HERE)[:2]),
    "rows gathered": lambda d: ones(d).gather(0, first(HERE)),
    "rows selected": lambda d: ones(d).index_select(0, first(HERE)),
    "rows of a table": lambda d: nn.Embedding(2, 3).to(d)(first(HERE)),
    "a layer": lambda d: nn.Linear(3, 1)(ones(d)),
    "numpy": lambda d: ones(d).numpy(),
    "a generator of the CPU": lambda d: torch.randn(3, generator=generator(0), device=d),
    "a generator of the device for the CPU": lambda d: torch.randn(3, generator=generator(0, d)),
    "the same, in place": lambda d: ones(d).uniform_(generator=generator(0)),
    "a backward pass": lambda d: Doubled.apply(ones(d).requires_grad_()).sum().backward(),
}
DEVICES = ["pretended", *["cuda"] * torch.cuda.is_available()]
"""A GPU obeys the same table."""


def moved(kind, weights):
    weights.requires_grad_().square().sum().backward()
    kind([weights], fused=True).step()


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("rule", ALLOWED)
def test_what_cuda_allows(where, rule):
    if where == "cuda":
        ALLOWED[rule](torch.device("cuda", 0))
    with pretended() as device:
        there, here = (ALLOWED[rule](home) for home in (device, HERE))
        numbers = isinstance(here, torch.Tensor) and "generator" not in rule
        assert not numbers or torch.equal(there.cpu(), here)


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("rule", REFUSED)
def test_what_cuda_refuses(where, rule):
    with pretended() as device, pytest.raises((RuntimeError, TypeError)):
        REFUSED[rule](torch.device("cuda", 0) if where == "cuda" else device)
    REFUSED[rule](HERE)


# -- mistakes are found -----------------------------------------------------------------------------------------------


def times_on_the_cpu(monkeypatch):
    plain = CosineSchedule.alpha_sigma
    monkeypatch.setattr(CosineSchedule, "alpha_sigma", lambda self, t: plain(self, t * torch.ones(t.shape)))


def noise_without_a_device(monkeypatch):
    rand = torch.rand
    monkeypatch.setattr(penalties.torch, "rand", lambda *size, device=None, **more: rand(*size, **more))


def positions_in_a_loss(monkeypatch):
    plain = nn.functional.softplus
    monkeypatch.setattr(nn.functional, "softplus", lambda x: plain(x) * torch.arange(x.numel()).view(x.shape))


def a_factor_in_the_backward_pass(monkeypatch):
    plain = nn.functional.softplus
    monkeypatch.setattr(nn.functional, "softplus", lambda x: Doubled.apply(plain(x)))


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (times_on_the_cpu, ["moons-diffusion", "network.schedule=cosine"]),
        (noise_without_a_device, ["ring-gan", "game.penalty=wgan-gp"]),
        (positions_in_a_loss, ["ring-gan"]),
        (a_factor_in_the_backward_pass, ["ring-gan"]),
    ],
)
def test_a_planted_mistake_is_found(away, monkeypatch, mistake, words):
    stepped(small(*words), away)
    mistake(monkeypatch)
    stepped(small(*words))
    with pytest.raises(RuntimeError, match=r"mixes devices: .* on the CPU"):
        stepped(small(*words), away)


# -- everything that a model does -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_every_option_of_every_family_trains(away, name):
    for words in options()[name]:
        state = stepped(small(name, *words), away)
        tensors = (*state.objective.parameters(), *state.objective.buffers(), *state.average.parameters())
        assert {v.device for v in tensors} == {away}


def trained(name, folder, resume=False, **changes):
    """A run of a small version of a preset, trained for a step or two and opened."""
    settings = COMMON | TINY[name] | {"training.previews": 0, "training.save_every": 1, **changes}
    return jensen.train(name, folder, steps=1 if name in FITTED else 2, settings=settings, resume=resume)


def test_every_sampler(away):
    torch.manual_seed(0)
    model = stepped(small("digits-ddpm"), away).average
    cond = torch.arange(4, device=away)[:, None]
    for name, rows in [(name, rows) for name in SAMPLERS for rows in (generator(0, away), generators(0, range(4)))]:
        made = model.sample(4, cond=cond, generator=rows, sampler=name, steps=3, guidance=2.0)
        assert (made.device, bool(made.isfinite().all())) == (away, True)
    assert model.sample(4, generator=generator(0, away), steps=3).device == away  # of no class
    z, times = torch.randn(4, 1, 8, 8, device=away), time_grid("uniform", 3, model.denoiser.schedule)[1:]
    for sampler in (Ancestral("posterior"), AnnealedLangevin(moves=2)):
        assert integrate(sampler, model.denoiser, z, times, cond=cond).device == away


LEAST = {"width": 2, "critic_width": 2, "latents": 1, "layers": 1, "critic_layers": 1}  # 19 weights
JUDGED = {
    "ring-gan": (["modes", "critics", "transport", "units", "stability"], LEAST),
    "moons-vae": (["likelihood", "posterior_gap", "collapse"], {}),
    "moons-mixture": (["components"], {"family.sweeps": 5}),
    "moons-score": (["score_error", "annealing", "by_steps"], {}),
    "moons-diffusion": (["bounds", "sampling_path", "round_trip_error"], {}),
    "digits-ddpm": (["samples", "classes", "guidance", "noise_interpolations"], {}),
    "digits-vae": (["nearest", "reconstructions"], {"judging.samples": 40, "judging.rows": 40}),
    "sprites-vae": (["disentanglement", "traversals", "interpolations"], {}),
    "captcha": (["read_as_asked", "unconditional"], {}),
    "captcha-reader": (["reading"], {}),
    "digits-pix2pix": (["translation"], {}),
}
"""For each judge, a run that it judges; and the settings of that run."""


def test_no_judge_is_left_out():
    assert sorted(name for judges, _ in JUDGED.values() for name in judges) == sorted(JUDGES)


@pytest.mark.usefixtures("short_judging", "short_classifier", "blank_plots")
@pytest.mark.parametrize("name", JUDGED)
def test_every_judge(away, tmp_path, monkeypatch, name):
    judges, changes = JUDGED[name]
    found = {}

    def kept(key, judge):
        return lambda case: found.setdefault(key, judge(case))

    chosen = {key: kept(key, JUDGES[key]) for key in judges}
    run = trained(name, tmp_path / "run", **{k if "." in k else f"network.{k}": v for k, v in changes.items()})
    monkeypatch.setattr("jensen.runs.evaluate.JUDGES", chosen)
    run.evaluate(stability="stability" in judges)
    assert {v.device for v in run.model.parameters()} | {v.device for v in run.model.buffers()} == {away}
    assert [key for key in judges if found[key] is None] == []


@pytest.mark.parametrize(
    ("name", "does"),
    [
        ("moons-vae", "interpolate encode reconstruct log_likelihood"),
        ("digits-hvae", "interpolate encode reconstruct log_likelihood"),
        ("digits-autoencoder", "interpolate encode reconstruct"),
        ("digits-ddpm", "interpolate encode reconstruct"),
        ("digits-gan", "interpolate"),
        ("moons-kernel", "log_likelihood"),
    ],
)
def test_what_a_run_does_from_python(away, tmp_path, name, does):
    run = trained(name, tmp_path / "run")
    assert run.sample(2).x.device == HERE
    rows = run.open_data().test[torch.arange(3)]
    cond = {"cond": [run.space.cond.names[k] for k in rows["cond"][:, 0].tolist()]} if name == "digits-ddpm" else {}
    for what in does.split():
        found = run.interpolate(1, 3).x if what == "interpolate" else getattr(run, what)(rows["x"].to(away), **cond)
        assert getattr(found, "value", found).device == HERE, what


@pytest.mark.parametrize("name", ["ring-gan", "digits-vdm", "digits-svi"])
def test_a_run_is_resumed_to_the_same_bits(away, tmp_path, name):
    whole = trained(name, tmp_path / "whole")
    part = shutil.copytree(tmp_path / "whole", tmp_path / "part")
    (part / "state" / "000000002.pt").unlink()
    (part / "model.safetensors").unlink()
    again = trained(name, part, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
