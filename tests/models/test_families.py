"""Every family of the table: its own logits at the asked rows, with no others computed, and what it
can do besides. All weights are random and small, so what is shown is that numbers are right."""

import pytest
import torch
from helpers.families import marked, tiny

from diffusion.canvas import Query
from diffusion.errors import UserError
from diffusion.models.backbone import Backbone
from diffusion.models.denoiser import Denoiser
from diffusion.models.families import FAMILIES
from diffusion.models.layouts import arrange
from diffusion.noise import Absorbing

BOS, PAD, MASK, VOCAB, LENGTH = 0, 1, 4, 60, 11
PLACES = [name for name in FAMILIES if FAMILIES[name].places]
OUTPUTS = {  # the last product, where it is not a module that the model names
    "mobilebert": lambda model: model.cls.predictions.transform,
    **dict.fromkeys(("xlm", "flaubert"), lambda model: model.pred_layer.proj),
}
every_family = pytest.mark.parametrize("name", marked(FAMILIES))
those_with_places = pytest.mark.parametrize("name", marked(PLACES))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def some_ids(rows: int = 3, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    ids = torch.randint(5, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, 2], ids[:, 6] = BOS, MASK, MASK
    return ids


def implementations(name):
    return ("eager", "sdpa") if tiny(name)._supports_sdpa else ("eager",)


@every_family
def test_logits_are_the_model_s_own_and_no_others_are_computed(name):
    ids = some_ids()
    query_mask = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    query_mask[:, 0] = False
    for attention in implementations(name):
        model = tiny(name, attention=attention, shift=False)
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[query_mask]
        seen = []
        output = OUTPUTS.get(name, lambda m: m.get_output_embeddings())(model)
        hook = output.register_forward_hook(
            lambda module, args, out, seen=seen: seen.append(args[0].numel() // args[0].shape[-1])
        )
        ours = Backbone(model)(ids, query_mask)
        hook.remove()
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        assert ours.std() > 0.1  # a comparison of zeros would prove nothing
        assert seen == [int(query_mask.sum())]


@every_family
def test_a_text_is_the_same_alone_and_beside_longer_ones(name):
    denoiser, ids = Denoiser(tiny(name), Absorbing(MASK), [PAD]), some_ids()
    padding = torch.zeros_like(ids, dtype=torch.bool)
    padding[0, 8:] = padding[2, 9:] = True
    ids[padding] = PAD
    query_mask = (ids == MASK) | (torch.arange(LENGTH) == 7)
    together = denoiser(Query(ids, query_mask, padding=padding))
    alone = [
        denoiser(Query(ids[row : row + 1, :size], query_mask[row : row + 1, :size]))
        for row, size in enumerate((8, LENGTH, 9))
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@those_with_places
def test_where_a_token_stands_is_what_its_position_says(name):
    """Slots in any order, given where they stand: what blocks and shadows are made of."""
    model, ids = tiny(name), some_ids()
    backbone, order = Backbone(model), torch.randperm(LENGTH)
    everything = torch.ones_like(ids, dtype=torch.bool)
    if backbone.shift:
        everything[:, 0] = False
    plain = backbone(ids, everything).view(3, -1, VOCAB)
    place = order.expand(3, -1)
    seen = torch.ones(3, LENGTH, LENGTH, dtype=torch.bool)
    hidden = backbone.at_slots(ids[:, order], place, seen=seen)
    logits = backbone.head(hidden.flatten(0, 1)).view(3, LENGTH, VOCAB)[:, order.argsort()]
    torch.testing.assert_close(logits[:, : plain.shape[1]], plain, rtol=1e-4, atol=1e-4)
    # The test can fail: in the order of the slots the model would say something else.
    place = torch.arange(LENGTH).expand(3, -1)
    wrong = backbone.head(backbone.at_slots(ids[:, order], place, seen=seen).flatten(0, 1))
    assert (wrong.view(3, LENGTH, VOCAB)[:, order.argsort()] - logits).abs().max() > 1e-2


@every_family
def test_read_from_left_to_right_nothing_is_known_of_what_comes(name):
    backbone, ids = Backbone(tiny(name)), some_ids()
    other = ids.clone()
    other[:, 7:] = other[:, 7:].flip(1) % 40 + 6
    before = torch.arange(LENGTH).expand(3, -1) < 7
    before[:, 0] = False
    try:
        backbone.check_causal(name)
    except UserError as error:
        assert name in str(error)
        return
    ours, theirs = (backbone(x, before, causal=True) for x in (ids, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert (backbone(ids, before) - ours).abs().max() > 1e-2  # it does see them otherwise


@pytest.mark.parametrize("name", marked(n for n in FAMILIES if not FAMILIES[n].places))
def test_models_that_count_between_slots_say_so(name):
    model, ids = tiny(name), some_ids()
    visible = (ids != MASK) & (torch.arange(LENGTH) > 0)
    with pytest.raises(UserError, match=model.config.model_type):
        Denoiser(model, Absorbing(MASK), [])(Query(ids, visible, shadows=visible))
    with pytest.raises(UserError, match="full"):
        Backbone(model)(ids, visible, layout=arrange("block4", LENGTH))
