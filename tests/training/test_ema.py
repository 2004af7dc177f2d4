"""The average of the weights against one made by hand."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from diffusion.training.optimizer import ema_update


@pytest.mark.parametrize("decay", [0.9999, 0.5])
def test_average_follows_the_published_warm_up(decay):
    """The n-th update, counted from the first weights seen, keeps min(decay, (1+n)/(10+n))."""
    model = torch.nn.Linear(3, 2).double()
    average = AveragedModel(model, multi_avg_fn=ema_update(decay))
    generator = torch.Generator().manual_seed(0)
    expected = None
    for n in range(60):
        new = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
               for name, p in model.named_parameters()}  # fmt: skip
        model.load_state_dict(new)
        average.update_parameters(model)
        if expected is None:
            expected = new  # nothing of the random start is kept
        else:
            d = min(decay, (1 + n) / (10 + n))
            expected = {name: d * expected[name] + (1 - d) * new[name] for name in new}
        for name, p in average.module.named_parameters():
            torch.testing.assert_close(p.data, expected[name])
