"""Compiled steps beside plain ones, in a process whose functions are not wrapped by type checks: prints the errors.

python tests/compiled.py BACKEND PRESET ...
"""

from __future__ import annotations

import json
import sys

import torch
import torch._inductor.config as inductor

from stepping import begun, gradients_of, small


def errors(name, backend):
    """For each player the relative errors of gradient and loss; the numbers of traced functions and graph breaks."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    recipe = small(name, "training.compile=true")
    (plain, batches), (compiled, _) = begun(recipe), begun(recipe)
    compiled.objective.compile(backend=backend)
    batch, found = next(batches), {}
    ours = gradients_of(compiled, batch)
    for player, (gradient, loss) in gradients_of(plain, batch).items():
        made, other = ours[player]
        off = abs(float(other.total - loss.total)) / abs(float(loss.total))
        found[player] = [float((made - gradient).norm() / gradient.norm()), off]
    counted = torch._dynamo.utils.counters
    return {"players": found, "traced": counted["frames"]["ok"], "breaks": counted["graph_break"].total()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    inductor.fallback_random = True  # torch's own random numbers
    backend, *names = sys.argv[1:]
    sys.stdout.write(json.dumps({name: errors(name, backend) for name in names}))
