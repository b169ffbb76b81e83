"""The training loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import Tensor

from jensen.core.types import Stream, mapped
from jensen.training.budget import Budget
from jensen.training.distributed import anyone, processes
from jensen.training.step import TrainState, Update, descend, train_step
from jensen.training.tolerance import Tolerance


def fit(
    state: TrainState,
    stream: Stream,
    budget: Budget,
    *,
    update: Update = descend,
    on_step: Callable[[TrainState, dict[str, Tensor]], None] | None = None,
    tolerance: Tolerance | None = None,
) -> None:
    """Make training steps until the budget is used up. The clock is paused while `on_step` runs.

    Args:
        state: the training state, changed in place; training continues from a loaded state.
        stream: training batches; opened at batch number `state.draws`.
        budget: length of training.
        update: update rule of the players.
        on_step: called after each step with the state and the step's terms.
        tolerance: which steps that are not finite are skipped; None: none.

    >>> import torch
    >>> from jensen.adversarial import DiracGAN
    >>> from jensen.core.objective import partition
    >>> from jensen.training import Player
    >>> game = DiracGAN(r1=1.0)
    >>> players = {
    ...     name: Player(parameters, torch.optim.SGD(parameters), lambda step: 0.5)
    ...     for name, parameters in partition(game).items()
    ... }
    >>> state = TrainState(game, players)
    >>> fit(state, lambda start: iter(lambda: {}, None), Budget(steps=100))
    >>> state.step, all(bool(p.abs() < 1e-6) for p in game.parameters())
    (100, True)
    """
    batches, tolerance = stream(state.draws), tolerance or Tolerance()
    while True:
        budget.start()
        budget.look()
        if budget.done(state.step):
            break
        terms = tolerance(state, lambda: train_step(state, batches, update=update))
        if on_step is not None:
            budget.pause()
            on_step(state, terms)
    budget.pause()


def on_device(stream: Stream, device: torch.device) -> Stream:
    """The same batches on a device."""
    return mapped(stream, lambda batch: {name: v.to(device, non_blocking=True) for name, v in batch.items()})


@contextmanager
def interrupts() -> Iterator[Callable[[bool], bool]]:
    """Yield a function that says whether SIGINT, SIGTERM or SIGHUP has arrived, or its argument is true; SIGINT after
    one raises KeyboardInterrupt at once.

    If several processes train together, every process calls the function after every step: it says whether this
    is so in any of them. A second SIGINT then changes nothing, because `torchrun` passes on those of the
    terminal, which the processes have already received; it kills processes that have not ended after 30 seconds.

    SIGHUP stays ignored under `nohup`. Outside the main thread, signals keep their usual effect.
    """
    arrived = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal arrived
        if arrived and number == signal.SIGINT and processes() == 1:
            raise KeyboardInterrupt
        arrived = True

    handled = threading.current_thread() is threading.main_thread()
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} if handled else set()
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers.discard(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield lambda also: anyone(arrived or also)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
