"""Inputs of critics: packs of neighbours, noise, a pool of earlier pictures."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from jensen.adversarial import (
    ImagePool,
    annealed,
    critic_divergence,
    divergence,
    instance_noise,
    pack,
)
from jensen.core.seeding import generator

F64 = torch.float64


def normal(mean, std):
    return Normal(torch.tensor(mean, dtype=F64), torch.tensor(std, dtype=F64))


# -- packing, noise ---------------------------------------------------------------------------------------------------


def test_packs_are_neighbours_along_channels():
    x = torch.arange(6 * 2 * 3 * 3.0).reshape(6, 2, 3, 3)
    packed = pack(x, 3)
    assert packed.shape == (2, 6, 3, 3)
    assert torch.equal(packed[1, 2:4], x[4])  # the second of the second pack
    assert torch.equal(pack(x, 1), x)
    with pytest.raises(ValueError, match=r"B a multiple of 4, got \(6, 2, 3, 3\)"):
        pack(x, 4)
    with pytest.raises(ValueError, match="m must be at least 1, got 0"):
        pack(x, 0)
    with pytest.raises(ValueError, match=r"must be \(B, C, ...\)"):
        pack(torch.zeros(6), 3)


def test_a_critic_of_packs_measures_the_product():
    """The best critic of p^m is the sum of log-ratios over a pack: its divergence is that of Gaussians m^(1/2) times
    as far apart. n = 20,000 packs of 3, 4 standard errors.
    """
    p, q, m = normal(0.0, 1.0), normal(0.7, 1.0), 3
    rng = generator(2)
    x, y = (
        pack(torch.randn(60_000, 1, dtype=F64, generator=rng), m),
        pack(0.7 + torch.randn(60_000, 1, dtype=F64, generator=rng), m),
    )
    logits = [(p.log_prob(v) - q.log_prob(v)).sum(1) for v in (x, y)]
    for name, share in (("jensen-shannon", 1.0), ("hellinger", 0.5), ("total-variation", 1.0)):
        found = critic_divergence(name, *(share * v for v in logits))
        exact = divergence(name, p, normal(0.7 * math.sqrt(m), 1.0)).value
        assert found.value == pytest.approx(exact, abs=4 * found.stderr)


def test_instance_noise():
    """The added variance, n = 100,000, 4 standard errors; none for 0; each row depends on its own generator."""
    x = torch.full((100_000, 1), 3.0, dtype=F64)
    noised = instance_noise(x, 0.5, generator(0))
    assert noised.mean().item() == pytest.approx(3, abs=4 * 0.5 / math.sqrt(100_000))
    assert noised.var().item() == pytest.approx(0.25, abs=4 * 0.25 * math.sqrt(2 / 100_000))
    assert instance_noise(x, 0.0) is x
    rows = instance_noise(torch.zeros(2, 3), 1.0, [generator(5), generator(6)])
    assert torch.equal(rows[1:], instance_noise(torch.zeros(1, 3), 1.0, [generator(6)]))
    with pytest.raises(ValueError, match="sigma must be at least 0, got -1"):
        instance_noise(x, -1.0)


def test_annealing():
    sigma = annealed(2.0, 10, end=0.5)
    assert [sigma(k) for k in (-5, 0, 4, 10, 99)] == pytest.approx([2.0, 2.0, 1.4, 0.5, 0.5])
    for start, steps in ((-1.0, 10), (1.0, 0)):
        with pytest.raises(ValueError, match="start and end must be at least 0"):
            annealed(start, steps)


# -- the pool ---------------------------------------------------------------------------------------------------------


def numbered(*numbers):
    return torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_a_pool_fills_then_keeps_for_a_while():
    """When full, each picture stays with probability 1 - 1/(2 size) per new picture: 4,000 places, 4 standard
    errors.
    """
    pool = ImagePool(4, (1, 2, 2))
    fresh = numbered(1, 2, 3)
    assert pool(fresh) is fresh
    pool.push(fresh)
    assert pool.images[:3, 0, 0, 0].tolist() == [1, 2, 3]
    assert int(pool.count) == 3
    pool.push(numbered(4, 5, 6))
    assert int(pool.count) == 4
    assert pool.images[3, 0, 0, 0] == 4
    runs, pushes, left = 1000, 5, 0
    for _ in range(runs):
        pool = ImagePool(4, (1, 2, 2))
        pool.push(numbered(0, 0, 0, 0))
        for _ in range(pushes):
            pool.push(numbered(1))
        left += int((pool.images[:, 0, 0, 0] == 0).sum())
    kept = (1 - 1 / 8) ** pushes
    assert left / (4 * runs) == pytest.approx(kept, abs=4 * math.sqrt(kept * (1 - kept) / (4 * runs)))


def test_a_pool_hands_back_half():
    """n = 20,000: half are new, the other half uniform from the pool, 4 standard errors; reading does not store
    anything.
    """
    pool = ImagePool(4, (1, 2, 2))
    pool.push(numbered(1, 2, 3, 4))
    state = {k: v.clone() for k, v in pool.state_dict().items()}
    got = pool(numbered(0).expand(20_000, 1, 2, 2))[:, 0, 0, 0]
    for number, share in ((0, 0.5), (1, 0.125), (4, 0.125)):
        found = (got == number).double().mean().item()
        assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 20_000))
    assert all(torch.equal(v, pool.state_dict()[k]) for k, v in state.items())


def test_a_pool_of_large_batches_of_nothing_and_resumed():
    large = ImagePool(3, (1, 2, 2))
    large.push(numbered(*range(10)))
    assert int(large.count) == 3
    large.push(numbered(*range(100, 160)))  # about 30 of them would stay: no two in one place
    held = large.images[:, 0, 0, 0].tolist()
    assert len(set(held)) == 3
    assert min(held) >= 100
    nothing, fresh = ImagePool(0, (1, 2, 2)), numbered(1, 2)
    nothing.push(fresh)
    assert nothing(fresh) is fresh
    straight, resumed = ImagePool(3, (1, 2, 2)), ImagePool(3, (1, 2, 2))
    for pool in (straight, resumed):
        torch.manual_seed(2)
        for k in range(6):
            if k == 3 and pool is resumed:
                saved, rng = pool.state_dict(), torch.get_rng_state()
                torch.rand(5)
                pool = ImagePool(3, (1, 2, 2))
                pool.load_state_dict(saved)
                torch.set_rng_state(rng)
            last = pool(numbered(k, k + 50))
            pool.push(numbered(k, k + 50))
        if pool is straight:
            expected, images = last, pool.images
        else:
            assert torch.equal(last, expected)
            assert torch.equal(pool.images, images)
    grown = numbered(1).clone().requires_grad_()
    straight.push(grown)
    assert not straight.images.requires_grad
    with pytest.raises(ValueError, match=r"must be of shape \(1, 2, 2\), got \(1, 3, 3\)"):
        straight(torch.zeros(1, 1, 3, 3))
    with pytest.raises(ValueError, match="size must be at least 0, got -1"):
        ImagePool(-1, (1,))
