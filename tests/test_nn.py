"""Networks for points and small pictures: the effect of conditions, and independence of rows."""

from __future__ import annotations

import pytest
import torch

from jensen.nn import TimeMLP, mlp


def network(**changes):
    net = TimeMLP((1, 4, 4), width=32, blocks=2, **changes)
    torch.nn.init.normal_(net.exit.weight)
    for block in net.blocks:
        torch.nn.init.normal_(block.modulate.weight, std=0.3)
    return net.double()


def test_no_condition_is_the_class_after_the_last():
    net = network(classes=10)
    z, t = torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    none = net(z, t)
    assert torch.equal(none, net(z, t, torch.full((3, 1), 10)))
    assert bool((none != net(z, t, torch.tensor([1, 2, 3]))).all())


def test_time_matters_and_rows_do_not_meet():
    net = network()
    z, t = torch.randn(5, 1, 4, 4, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    whole = net(z, t)
    alone = torch.cat([net(z[k : k + 1], t[k : k + 1]) for k in range(5)])
    assert torch.allclose(whole, alone, atol=1e-12)
    assert bool((net(z, t / 2) != whole).any(dim=(1, 2, 3)).all())


def test_a_fresh_network_predicts_nothing():
    assert not TimeMLP((2,))(torch.randn(4, 2), torch.rand(4)).any()


def test_an_mlp_is_linear_layers_with_activations_between():
    net = mlp(3, 5, 2, activation=torch.nn.ReLU)
    x = torch.randn(7, 3)
    assert torch.allclose(net(x), net[2](torch.relu(net[0](x))))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"widths must be at least two, each at least 1, got \(3,\)"):
        mlp(3)
    with pytest.raises(ValueError, match="cond must be None for a network without classes"):
        TimeMLP((2,))(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, dtype=torch.long))
