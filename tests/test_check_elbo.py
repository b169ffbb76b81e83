"""A plain ELBO is checked through its encoder and decoder, from Python or from a file; each common mistake is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal, kl_divergence

from jensen import check
from jensen.cli.main import main

VALUE = "minus the loss is the ELBO"
OF_ENCODE = "the gradient with respect to the parameters of encode is that of the ELBO"
OF_DECODE = "the gradient with respect to the parameters of decode is that of the ELBO"
STANDARD = Normal(0.0, 1.0)
X = torch.rand(5, 6, generator=torch.Generator().manual_seed(3)).round()


class Right(nn.Module):
    """Six bits, two latents, one value per example, the KL in closed form."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)), nn.Linear(2, 6)

    def encode(self, x):
        mean, log_std = self.up(x).chunk(2, -1)
        return Normal(1 + mean, (log_std - 1).exp())

    def decode(self, z):
        return Bernoulli(logits=2 * self.down(z))

    def drawn(self, q):
        return q.rsample()

    def reconstruction(self, x, z):
        return self.decode(z).log_prob(x).sum(-1)

    def kl(self, q, z):
        return kl_divergence(q, STANDARD).sum(-1)

    def loss(self, x):
        q = self.encode(x)
        z = self.drawn(q)
        return self.kl(q, z) - self.reconstruction(x, z)


class ByDraws(Right):
    def kl(self, q, z):
        return (q.log_prob(z) - STANDARD.log_prob(z)).sum(-1)


class Mean(Right):
    def loss(self, x):
        return super().loss(x).mean()


class Sum(Right):
    def loss(self, x):
        return super().loss(x).sum()


class TwoDraws(Right):
    """Uses different draws from those that the check provides."""

    def loss(self, x):
        return (super().loss(x) + super().loss(x)) / 2


class OtherPrior(Right):
    @property
    def prior(self):
        return Independent(Normal(torch.ones(2), 2.0), 1)

    def kl(self, q, z):
        return kl_divergence(Independent(q, 1), self.prior)


class Discrete(Right):
    """A latent with four classes, over which it sums."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 6))

    def encode(self, x):
        return Categorical(logits=self.up(x))

    def prior(self):
        return Categorical(logits=torch.zeros(4))

    def decode(self, z):
        return Bernoulli(logits=self.table[z])

    def loss(self, x):
        q, classes = self.encode(x), torch.arange(4)[:, None].expand(4, len(x))
        log_px = self.decode(classes).log_prob(x).sum(-1)
        return kl_divergence(q, self.prior()) - (q.probs.T * log_px).sum(0)


@pytest.mark.parametrize("right", [Right, ByDraws, Mean, Sum, TwoDraws, OtherPrior, Discrete])
def test_a_right_one_passes(right):
    report = check.elbo(right(), X, repeats=60)
    report.require()
    assert {VALUE, OF_ENCODE, OF_DECODE} <= {e.claim for e in report.evidence}


def test_draws_that_are_shared_are_compared_to_rounding():
    assert check.elbo(Right(), X, repeats=20).evidence[0].stderr < 1e-5
    assert check.elbo(TwoDraws(), X, repeats=20).evidence[0].stderr > 1e-3


class AveragedReconstruction(Right):
    def reconstruction(self, x, z):
        return super().reconstruction(x, z) / 6


class AveragedKL(Right):
    def kl(self, q, z):
        return super().kl(q, z) / 2


class BothAveraged(AveragedReconstruction, AveragedKL):
    pass


class TurnedKL(Right):
    def kl(self, q, z):
        return -super().kl(q, z)


class NoKL(Right):
    def kl(self, q, z):
        return 0.0


class NoPrior(Right):
    def kl(self, q, z):
        return q.log_prob(z).sum(-1)


class NoEntropy(Right):
    def kl(self, q, z):
        return -STANDARD.log_prob(z).sum(-1)


class NotNegated(Right):
    def loss(self, x):
        return -super().loss(x)


class Weighed(Right):
    def kl(self, q, z):
        return 0.7 * super().kl(q, z)


class Shifted(Right):
    def loss(self, x):
        return super().loss(x) + 0.9


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (AveragedReconstruction, "E log p(x|z) averaged over the 6 numbers of x, minus KL"),
        (AveragedKL, "E log p(x|z) minus KL averaged over the 2 numbers of z"),
        (BothAveraged, "E log p(x|z) averaged over the 6 numbers of x, minus KL averaged over the 2 numbers of z"),
        (TurnedKL, "E log p(x|z) + KL: the KL has the wrong sign"),
        (NoKL, "E log p(x|z) alone: the KL is missing"),
        (NoPrior, "E log p(x|z) - E log q(z|x): log p(z) is missing"),
        (NoEntropy, "E log p(x|z) + E log p(z): log q(z|x) is missing"),
        (NotNegated, "minus the ELBO: the sign is missing"),
        (Weighed, "E log p(x|z) - 0.7 KL"),
        (Shifted, "the ELBO minus 0.9 nats for every example"),
    ],
)
def test_a_wrong_value_is_found_and_named(wrong, named):
    report = check.elbo(wrong(), X, repeats=30)
    assert report.failed[0].claim == f"{VALUE} (it is {named})"


class Detached(Right):
    def drawn(self, q):
        return q.sample()


class DetachedDecoder(Right):
    def reconstruction(self, x, z):
        return Bernoulli(logits=2 * (z @ self.down.weight.detach().T + self.down.bias)).log_prob(x).sum(-1)


class Frozen(Right):
    """The right value without any gradient."""

    def loss(self, x):
        return super().loss(x).detach()


@pytest.mark.parametrize(
    ("wrong", "claims"),
    [(Detached, [OF_ENCODE]), (DetachedDecoder, [OF_DECODE]), (Frozen, [OF_ENCODE, OF_DECODE])],
)
def test_a_wrong_gradient_is_found_where_it_is(wrong, claims):
    assert [e.claim for e in check.elbo(wrong(), X, repeats=60).failed] == claims


class MixedReductions(Right):
    """The reconstruction term is summed over the batch, the KL is averaged."""

    def loss(self, x):
        q = self.encode(x)
        z = q.rsample()
        return self.kl(q, z).mean() - self.reconstruction(x, z).sum()


def test_what_is_wrong_only_of_a_batch_is_found():
    failed = [e.claim for e in check.elbo(MixedReductions(), X, repeats=60).failed]
    assert failed[0] == "the loss of a batch is the sum of its examples' losses"


def test_a_bound_that_is_none_is_above_log_p():
    failed = [e.claim for e in check.elbo(AveragedReconstruction(), X, repeats=30).failed]
    assert "minus the loss is at most log p(x), by importance sampling" in failed
    low = Weighed()
    low.kl = lambda q, z: 2 * kl_divergence(q, STANDARD).sum(-1)
    assert not any("at most" in e.claim for e in check.elbo(low, X, repeats=30).failed)


def changed(**methods):
    return type("Changed", (Right,), methods)()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (changed(encode=lambda self, x: self.up(x)), "encode must return a distribution of torch.distributions, got T"),
        (changed(decode=lambda self, z: Normal(z, 1.0)), r"decode\(z\) must be a distribution over x, \(4, 6\), got"),
        (changed(loss=lambda self, x: x), r"loss\(x\) must be one number or one for each of 4 examples, got \(4, 6\)"),
        (changed(prior=3.0), "prior must be a distribution of torch.distributions, got float"),
        (changed(encode=lambda self, x: Normal(0.0, 1.0)), "encode must return one distribution per row"),
    ],
)
def test_what_does_not_fit_is_refused(model, said):
    with pytest.raises(ValueError, match=said):
        check.elbo(model, X)


def test_numbers_that_are_refused():
    with pytest.raises(ValueError, match="repeats must be at least 10, got 3"):
        check.elbo(Right(), X, repeats=3)
    with pytest.raises(ValueError, match="x must hold at least one example"):
        check.elbo(Right(), X[:0])


# files ----------------------------------------------------------------------------------------------------------------


DOCUMENTED = re.search(
    r"```python\n(# my\.py\n.*?)```",
    (Path(__file__).parents[1] / "docs/check.md").read_text(encoding="utf-8"),
    re.DOTALL,
)


def written(tmp_path, text):
    path = tmp_path / "my.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_file_of_the_documentation_passes_and_its_mistake_is_named(tmp_path, capsys):
    text = DOCUMENTED[1]
    assert main(["check", written(tmp_path, text), "--precision", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "my/VAE" in said
    assert "my/check_schedule" in said
    assert "all 2 laws hold" in said
    wrong = text.replace(".sum(-1)", ".mean(-1)", 1)
    assert wrong != text
    assert main(["check", written(tmp_path, wrong), "--precision", "0.1", "--html", str(tmp_path / "page.html")]) == 1
    out, err = capsys.readouterr()
    assert "averaged over the" in out
    assert err == "jensen: 1 of 2 laws fail: my/VAE\n"
    assert "averaged over the" in (tmp_path / "page.html").read_text(encoding="utf-8")


FUNCTIONS = """
import torch
from torch.distributions import Normal, kl_divergence
from jensen.check import Evidence, law

decoder = torch.nn.Linear(1, 3)
x = torch.zeros(4, 3)

def encode(x):
    return Normal(x.mean(-1, keepdim=True), 0.5)

def decode(z):
    return Normal(decoder(z), 1.0)

def loss(x):
    q = encode(x)
    return kl_divergence(q, Normal(0.0, 1.0)).sum(-1) - decode(q.rsample()).log_prob(x).sum(-1)

@law("numbers/one", "One is one.\\n\\n$$1 = 1$$\\nSource: Peano (1889).")
def one(precision):
    yield Evidence("one", 1.0, 1.0, 0.0)

def check_two():
    "Two is three."
    return Evidence("two", 3.0, 2.0, 0.0)
"""


def test_functions_laws_and_checks_of_a_file_are_found(tmp_path, capsys):
    laws = check.laws_of_file(Path(written(tmp_path, FUNCTIONS)))
    assert [law.name for law in laws] == ["numbers/one", "my/check_two", "my/loss"]
    assert [law().holds for law in laws] == [True, False, True]
    assert main(["check", written(tmp_path, FUNCTIONS), "--list"]) == 0
    assert "Two is three." in capsys.readouterr().out
    assert main(["check", written(tmp_path, FUNCTIONS), "dirac-gan/equilibrium"]) == 1
    assert "2 = 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import torch\n1 / 0", "could not be run: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "could not be run: SystemExit: 3"),
        (
            "size = 3",
            "must define an ELBO (loss, encode, decode, and a batch x), a function check_..., or a law: found size",
        ),
        ("", "or a law: found nothing"),
        (FUNCTIONS.replace("x = torch", "y = torch"), "must define x, a batch of examples (B, ...) for the ELBO loss"),
    ],
)
def test_a_file_with_nothing_to_check_is_refused_in_one_line(tmp_path, capsys, text, said):
    assert main(["check", written(tmp_path, text)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_file_that_is_missing_is_refused(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.py")]) == 2
    assert "there is no file" in capsys.readouterr().err
