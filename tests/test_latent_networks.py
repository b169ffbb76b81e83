"""Autoencoders with convolutional networks, and densities whose columns have different scales."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from jensen.core.seeding import drawing, generator, generators
from jensen.data.dataset import Data
from jensen.data.pool import Tensors
from jensen.data.space import Space
from jensen.models import Autoencoder as AutoencoderModel
from jensen.models import KernelDensityModel, KernelSampling
from jensen.nn import PictureDecoder, PictureEncoder, operations, sized
from jensen.objectives import LeaveOneOut
from jensen.recipes.decoders import Decoder
from jensen.recipes.families.autoencoder import Autoencoder, Narrow
from jensen.recipes.families.kernel import Kernel
from jensen.recipes.families.mixture import Mixture
from jensen.recipes.families.vae import VAE, Bound, Network
from jensen.recipes.settings import Training
from jensen.score import silverman
from jensen.variational import elbo

TRAINING = Training(steps=4, warmup=1)
SCALES = torch.tensor([1e-3, 1.0, 1e4])
COLUMNS = Space((3,), mean=(-1e-3, 0.0, 5e4), std=tuple(SCALES.tolist()), rows=30)
STANDARD = Space((3,), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), rows=30)


def conv(**more):
    return Network(kind="conv", width=8, blocks=1, patch=2, **more)


HIERARCHIES = {
    "plain": VAE(network=conv(latents=(3,))),
    "bottom-up": VAE(network=conv(latents=(3, 2), hidden=8, depth=1), prior="learned"),
    "ladder": VAE(network=conv(latents=(3, 2), hidden=8, depth=1, direction="ladder")),
    "categorical": VAE(network=conv(latents=(3,), latent="categorical", classes=4), bound=Bound(samples=2)),
    "per-datum": VAE(network=conv(latents=(3,)), inference="per-datum"),
    "iwae": VAE(network=conv(latents=(3,)), bound=Bound(name="iwae", samples=3, gradient="dreg")),
    "autoencoder": Autoencoder(network=Narrow(kind="conv", width=8, blocks=1, patch=2, latents=3)),
}
PICTURES = {
    "two levels": Space((1, 13, 10), 2, rows=30),
    "256 levels": Space((4, 9, 14), 256, rows=30),
    "continuous": Space((3, 8, 9), None, mean=0.1, std=0.3, rows=30),
}


@pytest.mark.parametrize("space", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("name", HIERARCHIES)
def test_every_hierarchy_has_convolutional_networks(name, space):
    """A step changes encoder and decoder; samples have shape and levels of the data; the means of p(x | z) belong to
    the same z as the samples.
    """
    family = HIERARCHIES[name]
    torch.manual_seed(0)
    family.refuse(space, TRAINING)
    model = family.model(space)
    kinds = [type(m) for m in model.modules() if isinstance(m, PictureDecoder | PictureEncoder)]
    assert sorted(kinds, key=str) == [PictureDecoder] + [PictureEncoder] * (name != "per-datum")
    objective = family.objective(model, space)
    players = family.players(objective, TRAINING, TRAINING.budget())
    x = space.settled(0.1 + 0.3 * torch.randn(6, *space.shape))
    nets = [m for m in model.modules() if isinstance(m, PictureDecoder | PictureEncoder)]
    before = [next(net.parameters()).clone() for net in nets]
    for step in (1, 2):  # a decoder's head starts at 0, so that nothing below it has a gradient in the first step
        losses = objective(tuple(players), {"x": x, "index": torch.arange(6)}, step)
        for player_name, player in players.items():
            grads = torch.autograd.grad(losses[player_name].total, player.parameters, retain_graph=True)
            for p, grad in zip(player.parameters, grads, strict=True):
                p.grad = grad
        for player in players.values():
            player.move(step)
    assert not any(torch.equal(a, next(net.parameters())) for a, net in zip(before, nets, strict=True))
    rngs = [[generator(k) for k in range(3)] for _ in range(2)]
    made, means = model.sample(3, generator=rngs[0]), model.sample(3, generator=rngs[1], mean=True)
    assert made.shape == means.shape == (3, *space.shape)
    torch.testing.assert_close(space.settled(made), made)
    with drawing(generator(0)):
        z = model.prior().sample((1,)) if isinstance(model, AutoencoderModel) else model.prior_sample((1,))[0]
    torch.testing.assert_close(model.decode(z)[0], means[0])


def test_which_network_is_chosen():
    for shape, kind in (((3,), False), ((1, 8, 8), False), ((3, 12, 99), False), ((3, 13, 13), True)):
        assert Decoder().convolutional(Space(shape)) == kind
    assert Decoder(kind="conv").convolutional(Space((1, 8, 8)))
    assert not Decoder(kind="mlp").convolutional(Space((1, 28, 28)))


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_sizes_are_those_of_jensen_nn_and_given_widths_replace_them(size):
    points = sized("points", size, ())
    assert Decoder(size=size).inside == [points["width"]] * points["layers"]
    assert Decoder(size=size, hidden=7).inside == [7] * points["layers"]
    assert Decoder(size=size, depth=2).inside == [points["width"]] * 2
    shape = (1, 28, 28)
    (net,) = Decoder(size=size).encoder(Space(shape, 2), 5)
    (changed,) = Decoder(size=size, width=16).encoder(Space(shape, 2), 5)
    for built, settings in ((net, sized("encoder", size, shape)), (changed, sized("encoder", size, shape))):
        width = {"width": 16} if built is changed else {}
        exact = PictureEncoder(shape, 5, **settings | width)
        assert operations(built, torch.zeros(1, *shape)) == operations(exact, torch.zeros(1, *shape))


@pytest.mark.parametrize(
    ("settings", "space", "message"),
    [
        ({"kind": "conv"}, COLUMNS, "network.kind must be mlp for points, got conv"),
        ({"width": 16}, COLUMNS, "network.width is not used by fully connected networks, got 16"),
        ({"patch": 2}, PICTURES["two levels"], "network.patch is not used by fully connected networks, got 2"),
        ({"kind": "conv", "hidden": 8}, PICTURES["two levels"], "network.hidden is not used by convolutional networks"),
        ({"kind": "conv", "depth": 1}, PICTURES["two levels"], "network.depth is not used by convolutional networks"),
        (
            {"kind": "conv", "decoder_hidden": 8, "latents": (3, 2)},
            PICTURES["two levels"],
            "network.decoder_hidden is not used by convolutional networks, got 8",
        ),
    ],
)
def test_settings_of_the_other_network_are_refused(settings, space, message):
    with pytest.raises(ValueError, match=message):
        VAE(network=Network(**settings)).refuse(space, TRAINING)


# columns of different scale ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["predicted", "learned"])
@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
def test_multiplying_columns_changes_the_bound_by_the_log_scales(kind, noise):
    """For x = m + s u by column the ELBO in x is that in u minus the sum of log s; codes are equal."""
    u, found = torch.randn(6, 3, generator=generator(0)), []
    for space in (COLUMNS, STANDARD):
        torch.manual_seed(0)
        sizes = {"hidden": 8, "depth": 1, "noise": noise}
        if kind == "vae":
            family = VAE(network=Network(latents=(2,), **sizes), prior="learned")
        else:
            family = Autoencoder(network=Narrow(latents=2, **sizes))
        model, (mean, std) = family.model(space), space.moments()
        x = mean + std * u
        with drawing(generator(1)):
            found.append((elbo(model.trace(x)), model.codes(x), (model.reconstruct(x) - mean) / std))
    (value, codes, rebuilt), (exact, exact_codes, exact_rebuilt) = found
    torch.testing.assert_close(value, exact - SCALES.log().sum(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(codes, exact_codes, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(rebuilt, exact_rebuilt, rtol=1e-3, atol=1e-2)


def test_a_kernel_density_of_columns_is_torchs_mixture():
    """Kernels of standard deviation h s_d in column d, with h from the points x / s; its score is the gradient of that
    log density; and the same density of x / s shifts by the sum of log s.
    """
    x = torch.randn(40, 3, generator=generator(0), dtype=torch.float64) * SCALES + SCALES
    y = (torch.randn(9, 3, generator=generator(1), dtype=torch.float64) * SCALES).requires_grad_()
    model = KernelDensityModel(x, "silverman", scale=SCALES.double())
    kernels = Independent(Normal(x, silverman(x / SCALES) * SCALES.double()), 1)
    log_p = MixtureSameFamily(Categorical(torch.ones(40, dtype=torch.float64)), kernels).log_prob(y)
    torch.testing.assert_close(model.log_prob(y.detach()), log_p.detach())
    torch.testing.assert_close(model.score(y.detach()), torch.autograd.grad(log_p.sum(), y)[0])
    others = [torch.arange(40) != k for k in range(40)]
    exact = torch.stack([KernelDensityModel(x[o], 0.4, scale=SCALES.double()).log_prob(x[~o])[0] for o in others])
    one = KernelDensityModel(x, 0.4, scale=SCALES.double())
    torch.manual_seed(0)
    rows = torch.randint(40, (7,))
    torch.manual_seed(0)
    found = LeaveOneOut(one)(("model",), {"x": y[:7]}, 0)["model"].total
    torch.testing.assert_close(found.detach(), -exact[rows].mean())


@pytest.mark.parametrize("sampler", ["exact", "langevin", "mala", "ascent"])
def test_samples_of_a_kernel_density_of_columns_are_those_of_standard_ones_times_their_scales(sampler):
    u = torch.randn(30, 3, generator=generator(0), dtype=torch.float64)
    settings = KernelSampling(sampler, steps=5, chunk=8)
    scale = SCALES.double()
    made = KernelDensityModel(u * scale, 0.4, settings, scale).sample(6, generator=generators(0, range(6)))
    plain = KernelDensityModel(u, 0.4, settings).sample(6, generator=generators(0, range(6)))
    torch.testing.assert_close(made, plain * scale)


def test_the_family_gives_the_kernel_density_the_scales_of_the_columns():
    for space, scale in ((COLUMNS, SCALES), (Space((3,), std=7.0, rows=30), torch.ones(3))):
        torch.testing.assert_close(Kernel().model(space).scale, scale)
    with pytest.raises(ValueError, match=r"scale must be positive and finite, got 0\.0"):
        KernelDensityModel(torch.randn(5, 2), 1.0, scale=0.0)


def test_a_mixture_of_rescaled_columns_has_the_log_density_shifted_by_the_log_scales():
    """Fits of x and of s x from the same seed, by the family, with priors around the data."""
    u, found = torch.randn(200, 3, generator=generator(0), dtype=torch.float64), []
    u[:80] += 4
    for scale in (SCALES.double(), torch.ones(3, dtype=torch.float64)):
        x = u * scale
        space = Space((3,), std=tuple(scale.tolist()), rows=200)
        family = Mixture(components=4, sweeps=50)
        model = family.model(space)
        family.begin(model, Data("x", "0", space, Tensors(x=x), Tensors(x=x)), 0)
        found.append(model.log_likelihood(x[:20]).value)
    torch.testing.assert_close(found[0], found[1] - SCALES.double().log().sum(), rtol=1e-6, atol=1e-5)
