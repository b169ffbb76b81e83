"""Averaged weights: the recursion, copied buffers, parametrized weights that keep their constraint, float32."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from games import VAE, ring, ring_stream
from jensen.adversarial import stability
from jensen.core.objective import Objective, copied
from jensen.core.types import Loss
from jensen.models import GAN
from jensen.objectives import Adversarial
from jensen.training import Budget, begin_average, fit, train_step, update_average, warm_decay
from test_training import new_state

OLD = pytest.mark.filterwarnings("ignore:.*is deprecated")


def turned(angle, dtype=torch.float32):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=dtype)


def norm(weight):
    return float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2))


# -- weights and buffers ----------------------------------------------------------------------------------------------


def test_weights_follow_the_recursion_and_buffers_are_copied():
    model = nn.BatchNorm1d(2)
    average = copy.deepcopy(model)
    expected = {k: v.detach().clone() for k, v in model.named_parameters()}
    for step in range(5):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(1)
        decay = warm_decay(0.4)(step)
        update_average(average, model, decay)
        for key, value in model.named_parameters():
            expected[key] = decay * expected[key] + (1 - decay) * value.detach()
        for key, value in model.named_buffers():
            assert torch.equal(average.get_buffer(key), value)
    for key, value in average.named_parameters():
        torch.testing.assert_close(value.detach(), expected[key])


def test_tied_weights_move_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    average, start = begin_average(model), model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    update_average(average, model, 0.75)
    torch.testing.assert_close(average[1].weight, start + 0.25)
    assert average[1].weight is average[0].weight


def test_complex_weights_are_averaged_too():
    model = nn.Module()
    model.w = nn.Parameter(torch.tensor([1 + 1j]))
    average = begin_average(model)
    model.w.data.mul_(1j)  # -1 + 1j
    update_average(average, model, 0.75)
    torch.testing.assert_close(average.w, torch.tensor([0.5 + 1j]))


def test_whole_numbers_among_the_parameters_are_copied():
    model = nn.Module()
    model.places = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    average = begin_average(model)
    model.places.data.add_(5)
    update_average(average, model, 0.9)
    assert average.places.tolist() == [6, 7]


# -- low precision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [begin_average, copy.deepcopy])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_average_of_low_precision_moves(begin, dtype):
    """An average that starts at 1, of weights that are 2, is 2 - beta^n after n updates."""
    model = nn.Linear(1, 1).to(dtype)
    model.weight.data.fill_(1.0)
    average = begin(model)
    model.weight.data.fill_(2.0)
    for _ in range(5000):
        update_average(average, model, 0.999)
    assert average.weight.dtype == average.bias.dtype == torch.float32
    assert average.weight.item() == pytest.approx(2 - 0.999**5000, abs=2e-5)  # 1.99328
    assert model.weight.dtype == dtype


def test_float64_stays_float64():
    assert begin_average(nn.Linear(1, 1).double()).weight.dtype == torch.float64


def test_a_model_in_bfloat16_is_trained_averaged_and_sampled():
    """The average samples in float32, its cast copy in the model's precision; resuming is exact."""
    torch.manual_seed(0)
    made = lambda: Adversarial(GAN(nn.Linear(3, 2), [3]), nn.Linear(2, 1)).bfloat16()  # noqa: E731
    stream = lambda start: ({"x": x["x"].bfloat16()} for x in ring_stream()(start))  # noqa: E731
    state = new_state(made(), rate=1e-2)
    fit(state, stream, Budget(steps=3))
    assert state.average.sample(2).dtype == torch.float32
    assert copied(state.average).bfloat16().sample(2).dtype == torch.bfloat16
    again = new_state(made(), rate=1e-2)
    again.load_state_dict(copy.deepcopy(state.state_dict()))
    for run in (state, again):
        torch.manual_seed(1)
        train_step(run, stream(3))
    for key, value in state.average.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, again.average.state_dict()[key])


# -- computed weights -------------------------------------------------------------------------------------------------

SPECTRAL = {
    "parametrisation": (parametrizations.spectral_norm, lambda m: m.parametrizations.weight.original),
    "hook": (nn.utils.spectral_norm, lambda m: m.weight_orig),
}
spectral = pytest.mark.parametrize("kind", SPECTRAL)


@spectral
def test_the_spectral_norm_of_an_averaged_rotation_is_one(kind):
    """After 2,000 rotations: an average of rotations is a multiple of a rotation, so after normalisation both
    singular values are 1.
    """
    layer, raw = SPECTRAL[kind]
    model = layer(nn.Linear(2, 2))
    average = begin_average(model)
    for k in range(2000):
        raw(model).data.copy_(turned(0.05 * k))
        if k % 10 == 0:
            model(torch.ones(1, 2))
        update_average(average, model, 0.99)
    torch.testing.assert_close(torch.linalg.svdvals(average.weight), torch.ones(2), rtol=0, atol=1e-6)
    exact = sum(0.01 * 0.99 ** (1999 - k) * turned(0.05 * k, torch.float64) for k in range(2000))
    torch.testing.assert_close(average.weight.double(), exact / norm(exact), rtol=0, atol=1e-5)


@spectral
@pytest.mark.parametrize(("shape", "speed", "error"), [((5, 3), 1, 1e-6), ((48, 40), 1, 1e-6), ((96, 80), 0.1, 1e-4)])
def test_the_spectral_norm_of_averaged_weights_is_one_wherever_they_go(kind, shape, speed, error):
    """This holds even if the largest singular values cross or the weights jump; the norm of a trained layer itself lags
    by up to a tenth.
    """
    torch.manual_seed(0)
    layer, raw = SPECTRAL[kind]
    model = layer(nn.Linear(*shape[::-1]))
    average = begin_average(model)
    for _ in range(60):
        raw(model).data.add_(0.05 * speed * torch.randn(shape))
        model(torch.ones(1, shape[1]))
        update_average(average, model, 0.9)
    assert norm(average.weight) == pytest.approx(1, abs=error)
    one_sided = torch.zeros(shape).fill_diagonal_(1.0)
    one_sided[-1, -1] = 3.0
    for jumped in (one_sided, torch.randn(shape[0], 1) @ torch.randn(1, shape[1])):  # the second has rank one
        raw(model).data.copy_(jumped)
        update_average(average, model, 0.0)
        assert norm(average.weight) == pytest.approx(1, abs=1e-6)


def test_spectral_norm_of_convolutions_and_upon_another_parametrisation():
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.Conv2d(4, 20, 3), nn.Linear(4, 4))
    for layer in model[:2]:
        parametrizations.spectral_norm(layer)
    parametrizations.spectral_norm(parametrizations.weight_norm(model[2]))
    average = begin_average(model)
    for _ in range(3):
        for p in model.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
        update_average(average, model, 0.5)
    assert norm(average[0].weight.transpose(0, 1)) == pytest.approx(1, abs=1e-5)
    assert norm(average[1].weight) == pytest.approx(1, abs=1e-5)
    assert norm(average[2].weight) == pytest.approx(1, abs=1e-6)


def test_a_complex_spectral_norm_is_one():
    model = parametrizations.spectral_norm(nn.Linear(3, 4, dtype=torch.complex64))
    average = begin_average(model)
    model.parametrizations.weight.original.data.add_(torch.randn(4, 3, dtype=torch.complex64))
    update_average(average, model, 0.5)
    assert norm(average.weight) == pytest.approx(1, abs=1e-6)


@OLD
@pytest.mark.parametrize("kind", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_weight_norm_has_the_averaged_direction_and_norm(kind):
    """w = g v / |v| of the averages of g and v, computed by hand."""
    model = kind(nn.Linear(3, 2))
    g, v = (p for n, p in model.named_parameters() if n != "bias")
    start = g.detach().clone(), v.detach().clone()
    average = begin_average(model)
    g.data.mul_(3)
    v.data.add_(torch.randn(2, 3))
    update_average(average, model, 0.25)
    g, v = (0.25 * old + 0.75 * new.detach() for old, new in zip(start, (g, v), strict=True))
    expected = g * v / v.norm(dim=1, keepdim=True)
    torch.testing.assert_close(average.weight, expected)  # not the value that a hook computed before
    torch.testing.assert_close(average(torch.eye(3)) - average.bias, expected.T)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
@pytest.mark.parametrize("map_", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("based", [True, False])
def test_orthogonal_weights_stay_orthogonal(shape, map_, based):
    """After small moves, and after assigning another matrix, which changes the base or signs of the parametrization."""
    model = parametrizations.orthogonal(nn.Linear(*shape[::-1]), orthogonal_map=map_, use_trivialization=based)
    average = begin_average(model)

    def worst():
        q = average.weight if shape[0] < shape[1] else average.weight.T
        return float((q @ q.T - torch.eye(min(shape))).abs().max())

    for k in range(6):
        if k == 3 and (based or map_ == "householder"):
            model.weight = nn.init.orthogonal_(torch.empty(shape))
        raw = model.parametrizations.weight.original
        raw.data.add_(0.3 * torch.randn(shape).tril(-1))
        update_average(average, model, 0.6)
        assert worst() < 5e-6
    if based:
        assert torch.equal(average.parametrizations.weight[0].base, model.parametrizations.weight[0].base)
    update_average(average, model, 0.0)
    torch.testing.assert_close(average.weight, model.weight.detach())


def test_a_new_base_takes_the_average_along():
    """A new base changes the meaning of the coordinates: the average restarts at the current weight."""
    model = parametrizations.orthogonal(nn.Linear(3, 3))
    average = begin_average(model)
    model.weight = nn.init.orthogonal_(torch.empty(3, 3))
    update_average(average, model, 0.99)
    torch.testing.assert_close(average.weight, model.weight.detach())


def test_masks_of_pruning_are_copied_and_applied():
    model = nn.Linear(4, 1)
    average_of = model.weight.detach().clone()
    prune.l1_unstructured(model, "weight", 1)
    average = begin_average(model)
    prune.l1_unstructured(model, "weight", 2)
    model.weight_orig.data.add_(1)
    update_average(average, model, 0.5)
    assert torch.equal(average.weight_mask, model.weight_mask)
    torch.testing.assert_close(average.weight, (average_of + 0.5) * model.weight_mask)


class Normalised(Objective):
    """A linear layer with normalised weights for the ring data; the weight is cached within a forward pass."""

    def __init__(self, wrap):
        super().__init__()
        self.model = nn.Sequential(wrap(nn.Linear(2, 4)), nn.Tanh(), wrap(nn.Linear(4, 2)))

    def forward(self, players, batch, step):
        with parametrize.cached():
            return {"model": Loss.of(F.mse_loss(self.model(batch["x"]), batch["x"]))}


@OLD
@pytest.mark.parametrize(
    "wrap",
    [parametrizations.spectral_norm, nn.utils.spectral_norm, parametrizations.weight_norm, nn.utils.weight_norm],
)
def test_normalised_networks_train_average_and_resume_bit_for_bit(wrap):
    """After a forward pass the hooks leave a weight with a graph, which a plain deepcopy refuses."""
    torch.manual_seed(0)
    whole = new_state(Normalised(wrap))
    fit(whole, ring_stream(), Budget(steps=8))
    torch.manual_seed(0)
    first = new_state(Normalised(wrap))
    fit(first, ring_stream(), Budget(steps=5))
    saved = copy.deepcopy(first.state_dict())
    second = new_state(Normalised(wrap))
    second.load_state_dict(saved)
    fit(second, ring_stream(), Budget(steps=8))
    for key, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[key]), key
    torch.testing.assert_close(second.average(ring()), whole.average(ring()), rtol=0, atol=0)
    if "spectral" in wrap.__name__:
        assert norm(second.average[2].weight) == pytest.approx(1, abs=1e-5)


@OLD
def test_stability_copies_a_game_with_old_hooks():
    game = Adversarial(GAN(nn.utils.weight_norm(nn.Linear(1, 1)), [1]), nn.utils.weight_norm(nn.Linear(1, 1)))
    assert stability(game, {"x": torch.randn(8, 1)}).complete


def test_the_model_is_left_as_it_was():
    model = VAE()
    before = copy.deepcopy(model.state_dict())
    update_average(begin_average(model), model, 0.3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\], got 1.5"):
        update_average(begin_average(model), model, 1.5)
