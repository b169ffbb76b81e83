"""Critics that estimate a divergence from samples: training one, its logits, and its view of known modes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.adversarial.divergences import critic_divergence
from jensen.adversarial.margin import MarginLoss
from jensen.adversarial.packing import pack
from jensen.core.modes import evaluating
from jensen.core.progress import Advance
from jensen.core.protocols import Indexed
from jensen.core.shapes import check_count, checked

LOOKS = 30  # evaluations of a critic during its training
CHUNK = 512  # packs that go through a critic together


class ModeFeatures(nn.Module):
    r"""A point x, the one-hot index of its nearest mode, and the offset from that mode: (N, D) -> (N, K + 2 D + 1).

    With $u = (x - c_k) / \sigma$, the offset is given as $u\,\mathrm{asinh}|u| / |u|$ and $\mathrm{asinh}|u|$, which
    resolve the inside of a mode and are small between modes. A critic with these inputs sees errors on the scale of
    $\sigma$, which one with x as its input misses.

    Args:
        centres: (K, D), the centres of the modes.
        std: sigma, their standard deviation.

    >>> ModeFeatures(torch.zeros(8, 2), 0.1)(torch.zeros(4, 2)).shape
    torch.Size([4, 13])
    """

    centres: Tensor

    @checked
    def __init__(self, centres: Float[Tensor, "k d"], std: float):
        super().__init__()
        check_count(centres=len(centres))
        if not std > 0:
            raise ValueError(f"std must be positive, got {std}")
        self.std, self.outputs = std, len(centres) + 2 * centres.shape[1] + 1
        self.register_buffer("centres", centres)

    @checked
    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n out"]:
        mode = (x[:, None] - self.centres).square().sum(2).argmin(1)
        u = (x - self.centres[mode]) / self.std
        far = u.norm(dim=1, keepdim=True)
        size = far.asinh()
        which = nn.functional.one_hot(mode, len(self.centres)).to(x)
        return torch.cat([x, which, u * size / far.clamp(min=1e-6), size], 1)


def train_critic(
    critic: nn.Module,
    loss: MarginLoss,
    data: Indexed,
    sample: Callable[[int], Tensor],
    *,
    steps: int,
    batch: int = 256,
    rate: float = 1e-3,
    advance: Advance = lambda _: None,
) -> int:
    r"""Train a critic to distinguish data from samples: minimise $E\,l(D(x)) + E\,l(-D(G(z)))$ by Adam.

    A tenth of the data is held out, and the critic keeps the weights with the highest `critic_divergence` there, so
    that overfitting does not lower its bound. Draws come from torch's global generator.

    Args:
        critic: (B, ...) -> (B, ...), changed in place; a patch critic's values are averaged.
        loss: the margin loss l.
        data: (N, ...), N at least 3, of which one batch is read at a time.
        sample: called with n, returns n samples.
        steps, batch, rate: number of steps, batch size, and learning rate, which decreases to 0 as a cosine.
        advance: called with 1 after each step.

    Returns:
        The step whose weights are kept.

    Source: Nowozin et al. (2016), section 2.2, for the bound.

    >>> _ = torch.manual_seed(0)
    >>> from jensen.adversarial import logistic
    >>> critic = nn.Linear(1, 1)
    >>> _ = train_critic(critic, logistic, torch.ones(100, 1), lambda n: -torch.ones(n, 1), steps=50, rate=0.1)
    >>> bool((critic_logits(critic, torch.ones(4, 1)) > 0).all())
    True
    """
    check_count(steps=steps, batch=batch)
    order = torch.randperm(len(data))
    kept = max(len(data) // 10, 2)
    held_out, samples = data[order[:kept]], sample(kept)
    adam = torch.optim.Adam(critic.parameters(), lr=rate)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    best, state, at = -math.inf, copy.deepcopy(critic.state_dict()), 0
    for step in range(1, steps + 1):
        real = data[order[kept:][torch.randint(len(data) - kept, (batch,))]]
        total = loss(_flat(critic(real))).mean() + loss(-_flat(critic(sample(batch)))).mean()
        adam.zero_grad()
        total.backward()
        adam.step()
        slower.step()
        advance(1)
        if step % max(steps // LOOKS, 1) == 0 or step == steps:
            gain = critic_divergence(loss, critic_logits(critic, held_out), critic_logits(critic, samples))
            if gain.value > best:
                best, state, at = gain.value, copy.deepcopy(critic.state_dict()), step
    critic.load_state_dict(state)
    return at


@torch.no_grad()
@checked
def critic_logits(critic: nn.Module, x: Float[Tensor, "n ..."], packing: int = 1) -> Float[Tensor, " packs"]:
    """Logits of whole packs of x in evaluation mode, (N // packing,); for a patch critic, the mean over its patches.

    Args:
        critic: called with packs, see `pack`.
        x: (N, ...); rows that do not fill a pack are left out.
        packing: examples per pack.

    >>> critic_logits(nn.Flatten(), torch.tensor([[1.0], [3.0], [5.0]]), 2)
    tensor([2.])
    """
    check_count(packing=packing)
    packs = pack(x[: len(x) // packing * packing], packing)
    with evaluating(critic):
        return torch.cat([_flat(critic(part)) for part in packs.split(CHUNK)])


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), math.prod(values.shape[1:])).mean(1)
