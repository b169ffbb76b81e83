"""Random generators for the public API: one generator, or one per row so that no row depends on its neighbours."""

from __future__ import annotations

import contextlib
import hashlib
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data import get_worker_info

Rng = torch.Generator | Sequence[torch.Generator] | None


def normal(shape: Sequence[int], rng: Rng = None, *, like: Tensor) -> Tensor:
    """Standard normal draws with the device and dtype of `like`.

    Args:
        shape: (B, ...).
        rng: None (torch's global generator), one generator, or B generators, one per row.
        like: a tensor that determines device and dtype.

    Raises:
        ValueError: if the number of generators is not the number of rows.

    >>> a, b = (generator(7) for _ in range(2))
    >>> x = torch.zeros(())
    >>> bool((normal((2, 3), [a, generator(8)], like=x)[0] == normal((1, 3), [b], like=x)[0]).all())
    True
    """
    shape = tuple(shape)
    if rng is None or isinstance(rng, torch.Generator):
        device = like.device if rng is None else rng.device
        return torch.randn(shape, generator=rng, device=device, dtype=like.dtype).to(like.device)
    if len(rng) != shape[0]:
        raise ValueError(f"generators must be one per row, {shape[0]}, got {len(rng)}")
    rows = [torch.randn(shape[1:], generator=g, device=g.device, dtype=like.dtype) for g in rng]
    return torch.stack(rows).to(like.device) if rows else torch.empty(shape, dtype=like.dtype, device=like.device)


def checked_seed(seed: int) -> int:
    """The seed as a Python integer; integers of NumPy and torch are accepted too.

    Raises:
        ValueError: unless it is a whole number from 0 to 2^64 - 1.
    """
    try:
        whole = int(operator.index(seed))
    except TypeError:
        raise ValueError(f"seed must be a whole number, got {seed!r}") from None
    if not 0 <= whole < 2**64:
        raise ValueError(f"seed must be from 0 to 2^64 - 1, got {whole}")
    return whole


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded with `seed`; every seed from 0 to 2^64 - 1 gives different draws, see `begin`.

    >>> a, b = (torch.rand(1, generator=generator(seed)) for seed in (0, 2**32))
    >>> bool(a == b)
    False
    """
    return begin(torch.Generator(device), seed)


def begin(rng: torch.Generator, seed: int) -> torch.Generator:
    """Seed a generator with all 64 bits of `seed`, and return it.

    Torch's CPU generator is a Mersenne Twister, and `manual_seed` uses only 32 bits. For larger seeds its state is set
    by the Twister's initialisation from an array, the seed's two halves, as in NumPy's `RandomState`.

    Raises:
        ValueError: unless the seed is from 0 to 2^64 - 1.

    Source: Matsumoto & Nishimura (2002), init_by_array.
    """
    seed = checked_seed(seed)
    rng.manual_seed(seed)
    if rng.device.type == "cpu" and seed >= 2**32:
        words = np.random.RandomState([seed % 2**32, seed >> 32]).get_state(legacy=False)["state"]["key"]
        state = rng.get_state()
        state[_TWISTER] = torch.from_numpy(words.astype(np.int64)).view(torch.uint8)
        rng.set_state(state)
    return rng


_TWISTER = slice(24, 24 + 624 * 8)  # bytes of the state that hold its 624 words, after the seed, 2 counts and an index


def begin_globally(seed: int) -> None:
    """Seed torch's global generators, CPU and CUDA: `torch.manual_seed` with all 64 bits.

    Raises:
        ValueError: unless the seed is from 0 to 2^64 - 1.
    """
    torch.manual_seed(checked_seed(seed))
    begin(torch.default_generator, seed)


def numbered(seed: int, n: int, stride: int = 1_000_003) -> torch.Generator:
    """The generator for draw n of a stream, a function of (seed, n) alone.

    Its seed is seed * stride + n in the lower 32 bits, and the upper half of `seed` in the upper 32 bits.

    >>> numbered(3, 1).initial_seed(), numbered(2**32, 1).initial_seed() == 2**32 + 1
    (3000010, True)
    """
    seed = checked_seed(seed)
    return generator((seed >> 32 << 32) + (seed * stride + n) % 2**32)


def derived(seed: int, *keys: object) -> int:
    """A 64-bit seed derived from `seed` and the keys by hashing.

    >>> derived(0, "noise", 1) != derived(1, "noise", 0)
    True
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *keys))).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def generators(seed: int, keys: Sequence[object]) -> list[torch.Generator]:
    """One generator per key, each a function of (seed, key, number of earlier occurrences of the key) alone.

    So, for example, the picture drawn for a text does not depend on the other texts or their order. Each generator is
    seeded with 32 bits of a hash: among n keys about n^2 / 2^33 pairs share their draws.

    Raises:
        ValueError: unless the seed is from 0 to 2^64 - 1.

    >>> a, b = generators(5, ["7038", "4411"])[0], generators(5, ["9", "7038"])[1]
    >>> a.initial_seed() == b.initial_seed()
    True
    """
    seed = checked_seed(seed)
    seen: Counter[object] = Counter()
    out = []
    for key in keys:
        out.append(generator((derived(seed, key, seen[key]) >> 1) % 2**32))
        seen[key] += 1
    return out


_FACTORIES = {torch.rand, torch.randn, torch.randint, torch.randperm}
_DRAWS = {
    *(torch.normal, torch.bernoulli, torch.multinomial, torch.poisson, torch.binomial),
    *(torch._standard_gamma, torch._sample_dirichlet, torch.rand_like, torch.randn_like, torch.randint_like),
    *(torch.Tensor.bernoulli, torch.Tensor.multinomial),
}
_IN_PLACE = {
    *(torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.exponential_, torch.Tensor.bernoulli_),
    *(torch.Tensor.cauchy_, torch.Tensor.geometric_, torch.Tensor.log_normal_, torch.Tensor.random_),
    *(
        torch.nn.init.uniform_,
        torch.nn.init.normal_,
        torch.nn.init.kaiming_uniform_,
    ),  # function modes do not see the calls inside
}


def drawing(rng: torch.Generator | None) -> contextlib.AbstractContextManager[object]:
    """Context manager: all random draws inside use `rng`, also in code that takes no generator (`torch.distributions`).

    Draws are made on the generator's device and moved to the requested one. A call that passes its own generator keeps
    it; one that passes None uses this one. Other threads are unaffected, and so are the worker processes of a
    `DataLoader`, whose seeds are drawn here. Compiled code draws the same numbers as uncompiled code.

    It does not reach what torch hides from function modes:

    - dropout of every kind, `F.rrelu`, `F.fractional_max_pool2d` and similar functions, `F.gumbel_softmax`, and modules
      with one inside (attention, recurrent networks);
    - code under `torch.jit.script`, and calls of `torch.ops`;
    - code that names torch's global generator, such as `torch.utils.data.random_split`;
    - the backward pass: activation checkpointing repeats the draws there, so its gradient belongs to different draws;
    - draws not made by torch (`random`, NumPy).

    Args:
        rng: None keeps the current generator: that of an enclosing `drawing`, or torch's global one.

    Raises:
        ValueError: for anything but one generator or None.

    >>> q = torch.distributions.Gamma(torch.tensor(2.0), torch.tensor(1.0))
    >>> with drawing(generator(7)):
    ...     a = q.rsample((3,))
    >>> with drawing(generator(7)):
    ...     bool((a == q.rsample((3,))).all())
    True
    """
    if rng is None:
        return contextlib.nullcontext()
    if not isinstance(rng, torch.Generator):
        raise ValueError(f"drawing takes one torch.Generator or None, got {type(rng).__name__}")
    return _Drawing(rng)


class _Drawing(TorchFunctionMode):
    def __init__(self, rng: torch.Generator):
        super().__init__()
        self.rng, self.worker = rng, get_worker_info()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        drawn = func in _FACTORIES or func in _DRAWS or func in _IN_PLACE
        own = any(isinstance(v, torch.Generator) for v in (*args, *kwargs.values()))
        if not drawn or own or get_worker_info() is not self.worker:
            return func(*args, **kwargs)
        home = self.rng.device
        args = tuple(a for a in args if a is not None)  # a generator of None may be passed by position
        kwargs["generator"] = self.rng
        if func in _FACTORIES:
            asked = torch.device(kwargs.pop("device", None) or torch.get_default_device())
            return func(*args, **kwargs, device=home).to(asked)
        if func in _DRAWS:
            given = [*args, *kwargs.values()]
            asked = kwargs.get("device") or next((v.device for v in given if isinstance(v, Tensor)), home)
            if "device" in kwargs:
                kwargs["device"] = home
            moved = {name: _moved(v, home) for name, v in kwargs.items()}
            return func(*(_moved(a, home) for a in args), **moved).to(asked)
        x, *rest = args or [kwargs.pop("tensor")]
        if x.device == home:
            return func(x, *rest, **kwargs)
        drawn = func(torch.empty_like(x, device=home), *(_moved(a, home) for a in rest), **kwargs)
        with torch.no_grad() if x.is_leaf else contextlib.nullcontext():
            return x.copy_(drawn)


def _moved(x: Any, device: torch.device) -> Any:
    return x.to(device) if isinstance(x, Tensor) else x
