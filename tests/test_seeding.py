"""Seeds: all 64 bits count, small seeds give torch's draws, and invalid seeds raise an error of one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jensen.adversarial import DiracGAN
from jensen.adversarial.field import Frozen
from jensen.cli.main import main
from jensen.core.seeding import begin, begin_globally, derived, generator, generators, numbered
from jensen.data.pool import Tensors, pool_stream
from jensen.data.unpaired import unpaired_stream
from jensen.runs.draw import drawing

LARGE = (2**32, 2**32 + 5489, 2**63, 2**64 - 1)
BAD = (-1, 2**64, 10**30)


def words(rng, n=2000):
    """24 bits of each output of the Mersenne Twister; 2,000 outputs are more than three times its state."""
    return torch.randint(2**24, (n,), generator=rng)


def test_a_small_seed_is_torchs_own_and_is_the_reference_twister():
    for seed in (0, 1, 5489, 2**32 - 1):
        assert torch.equal(words(generator(seed)), words(torch.Generator().manual_seed(seed)))
        raw = np.random.RandomState(seed)._bit_generator.random_raw(2000) % 2**24
        assert torch.equal(words(generator(seed)), torch.from_numpy(raw.astype(np.int64)))


@pytest.mark.parametrize("seed", LARGE)
def test_a_large_seed_is_the_reference_twister_begun_by_both_halves(seed):
    raw = np.random.RandomState([seed % 2**32, seed >> 32])._bit_generator.random_raw(2000) % 2**24
    rng = generator(seed)
    assert torch.equal(words(rng), torch.from_numpy(raw.astype(np.int64)))
    assert rng.initial_seed() == seed
    assert torch.equal(torch.randn(5, generator=begin(rng, seed)), torch.randn(5, generator=generator(seed)))


def test_no_bit_of_a_seed_is_lost():
    seen = {torch.randn(4, generator=generator(s)).numpy().tobytes() for s in [0, *(2**k for k in range(64))]}
    assert len(seen) == 65


def test_torchs_global_generator_takes_all_bits_too():
    state = torch.get_rng_state()
    try:
        for seed in (7, *LARGE):
            begin_globally(seed)
            assert torch.equal(torch.randn(9), torch.randn(9, generator=generator(seed)))
        begin_globally(7)
        drawn = torch.randn(9)
        torch.manual_seed(7)
        assert torch.equal(drawn, torch.randn(9))
    finally:
        torch.set_rng_state(state)


def test_streams_of_small_seeds_are_as_ever_and_of_large_ones_their_own():
    x = torch.arange(1000)
    for seed in (0, 3, 5000, 2**31 - 1):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + 4)  # of which torch takes 32 bits
        assert torch.equal(next(pool_stream(8, seed, x=x)(4))["x"], x[torch.randint(1000, (8,), generator=rng)])
        assert torch.equal(words(numbered(seed, 4, 1009)), words(torch.Generator().manual_seed(seed * 1009 + 4)))
    for stream, rows in ((pool_stream, x), (unpaired_stream, Tensors(x=x))):
        assert len({next(stream(8, seed, x=rows)(0))["x"].numpy().tobytes() for seed in (0, *LARGE)}) == 5


def test_keyed_generators_are_as_ever():
    """The seed is half of the first 64 bits of the SHA-256 of "5/7038/0", of which torch uses 32."""
    (rng,) = generators(5, ["7038"])
    assert torch.equal(words(rng), words(torch.Generator().manual_seed(3677540518543268384)))
    assert derived(5, "7038", 0) >> 1 == 3677540518543268384
    assert generators(0, "a")[0].initial_seed() != generators(2**32, "a")[0].initial_seed()


def test_a_games_draws_depend_on_all_bits():
    games = [Frozen(DiracGAN(), seed=seed) for seed in (0, 2**32)]
    drawn = []
    for game in games:
        with game._still():
            drawn.append(torch.randn(3))
    assert not torch.equal(*drawn)


def test_whole_numbers_of_numpy_and_torch_are_seeds_and_others_are_refused():
    for seed in (np.int64(5), np.uint8(5), torch.tensor(5)):
        assert torch.equal(words(generator(seed)), words(generator(5)))
        assert torch.equal(words(generators(seed, "a")[0]), words(generators(5, "a")[0]))
        assert torch.equal(words(numbered(seed, 1)), words(numbered(5, 1)))
    assert generator(np.uint64(2**63 + 1)).initial_seed() == 2**63 + 1
    for seed in (1.0, "3", None, torch.tensor(1.5)):
        with pytest.raises(ValueError, match="seed must be a whole number, got "):
            generator(seed)


@pytest.mark.parametrize("seed", BAD)
def test_what_is_no_seed_is_refused_in_one_sentence(seed, capsys, tmp_path):
    message = rf"seed must be from 0 to 2\^64 - 1, got {seed}"
    for use in (
        generator,
        begin_globally,
        lambda seed: generators(seed, []),
        lambda seed: pool_stream(1, seed, x=torch.zeros(1)),
        lambda seed: drawing(None, seed=seed),
    ):
        with pytest.raises(ValueError, match=message):
            use(seed)
    for words_ in (["compare", "a", "b", "--seed", str(seed)], ["train", "ring-gan", "--seed", str(seed)]):
        assert main(words_) == 2
        err = capsys.readouterr().err
        assert err.startswith("jensen: ")
        assert err.count("\n") == 1
        assert str(seed) in err
