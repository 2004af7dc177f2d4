"""--new_vocabulary: the logits of the new tokens follow from those of the old ones."""

import shutil

import pytest
import torch
from helpers.families import tiny
from helpers.models import SENTENCES
from helpers.training import RUN, assert_same_weights, losses
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from diffusion.errors import UserError
from diffusion.models.families import FAMILIES
from diffusion.models.tokenizers import train_tokenizer
from diffusion.text import Speller, encode
from diffusion.training import vocabulary

OTHERS = [
    "Lily loved the little red bird. The bird was happy to see Lily.",
    "Tom and his mom went to the park, and they played with a big ball.",
]
SPECIALS = ("bos", "eos", "pad", "mask")


@pytest.fixture(scope="module")
def tokenizers():
    return train_tokenizer(SENTENCES, 300), train_tokenizer(OTHERS, 320)


def made_of(old, new):
    """The old tokens of each new one, special tokens left out: [] there."""
    spellers, special = (Speller(old), Speller(new)), set(new.all_special_ids)
    return [[] if i in special else vocabulary.old_tokens(*spellers, i) for i in range(len(new))]


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {"ibert"}))
def test_logits_are_the_mean_of_those_of_the_old_tokens(name, tokenizers):
    """The output layer is linear: with the same hidden states the logit of a new token is the mean of
    its old tokens' logits without biases, plus the minimum of their biases."""
    old, new = tokenizers
    model = tiny(name, vocab=300)
    pieces = made_of(old, new)
    text = "the old river"
    # Characters, which are tokens of both.
    ids = [t.convert_tokens_to_ids(list(text.replace(" ", "Ġ"))) for t in tokenizers]
    before = [old.bos_token_id, *ids[0], old.mask_token_id]
    after = [new.bos_token_id, *ids[1], new.mask_token_id]
    biases = [w for w in model.parameters() if w.shape == (300,)]
    with torch.no_grad():
        was = model(torch.tensor([before])).logits[0]
        bias = biases[0].clone() if biases else torch.zeros(300)
        vocabulary.move(model, old, new)
        now = model(torch.tensor([after])).logits[0]
    assert now.shape[1] == len(new) == model.config.vocab_size
    # Tokens that share their old tokens get offsets.
    single = [i for i, p in enumerate(pieces) if p and pieces.count(p) == 1]
    assert len(single) > 200
    expected = [(was - bias)[:, pieces[i]].mean(1) + bias[pieces[i]].min() for i in single]
    torch.testing.assert_close(now[:, single], torch.stack(expected, 1), rtol=1e-3, atol=1e-3)
    for special in SPECIALS:
        i, j = (getattr(t, f"{special}_token_id") for t in tokenizers)
        torch.testing.assert_close(now[:, j], was[:, i], rtol=1e-3, atol=1e-3)


def test_a_vocabulary_of_the_same_size_is_moved(tokenizers):
    old = tokenizers[0]
    new = train_tokenizer(OTHERS, 300)
    model = tiny("roberta", vocab=300)
    rows = model.get_input_embeddings().weight.detach().clone()
    vocabulary.move(model, old, new)
    pieces = made_of(old, new)
    index = next(i for i, p in enumerate(pieces) if len(p) == 2 and pieces.count(p) == 1)
    moved = model.get_input_embeddings().weight[index]
    torch.testing.assert_close(moved, rows[pieces[index]].mean(0))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def word_pieces():
    """An uncased WordPiece with a few pieces."""
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "lily",
        "li",
        "bird",
        "the",
        "##ly",
        "##ird",
        "##s",
        "b",
        "t",
        ".",
        ",",
        "é",
        "e",
    ]
    model = models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", bos_token="[CLS]", eos_token="[SEP]",
    )  # fmt: skip


def sentence_pieces():
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁lily", "▁", "li", "ly", "▁bird", "b", "ird", "."]
    tokenizer = Tokenizer(models.Unigram([(t, -1.0 - len(t) % 3) for t in tokens], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


@pytest.mark.parametrize(
    ("make", "token", "expected"),
    [
        (word_pieces, "ĠLily", ["lily"]),
        (word_pieces, "Lily", []),  # no piece inside a word begins with l, y and so on
        (word_pieces, "ly", ["##ly"]),
        (word_pieces, "Ġbirds", ["bird", "##s"]),
        (word_pieces, "irds", ["##ird", "##s"]),
        (word_pieces, ".,", [".", ","]),
        (word_pieces, "ĠÃ©", ["é"]),
        (word_pieces, "Ã", []),  # half of a character
        (sentence_pieces, "Ġlily", ["▁lily"]),
        (sentence_pieces, "lily", ["li", "ly"]),
        (sentence_pieces, "bird.", ["b", "ird", "."]),
    ],
)
def test_pieces_inside_a_word_come_from_pieces_inside_a_word(make, token, expected):
    old, new = make(), train_tokenizer(SENTENCES, 300)
    new.add_tokens([])  # a tokenizer of its own
    index = new.convert_tokens_to_ids(token)
    if index == new.unk_token_id:
        new = with_token(token)
        index = new.convert_tokens_to_ids(token)
    found = vocabulary.old_tokens(Speller(old), Speller(new), index)
    assert old.convert_ids_to_tokens(found) == expected


def with_token(token: str):
    """A byte-level BPE that has this token."""
    characters = sorted(set(token))
    merges, tokens = [], list(characters)
    for end in range(2, len(token) + 1):
        merges.append((token[: end - 1], token[end - 1]))
        tokens.append(token[:end])
    vocab = {
        t: i
        for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *dict.fromkeys(tokens)])
    }
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_capitals_of_an_uncased_model_are_distinguishable():
    old = word_pieces()
    new = train_tokenizer(["The the bird Bird Lily lily. " * 20], 300)
    model = tiny("bert", vocab=len(old))
    vocabulary.move(model, old, new, seed=3)
    rows = model.get_input_embeddings().weight.detach()
    pairs = [("Ġthe", "ĠThe"), ("Ġbird", "ĠBird"), ("Ġlily", "ĠLily")]
    pairs = [[new.convert_tokens_to_ids(t) for t in pair] for pair in pairs]
    steps = torch.stack([rows[b] - rows[a] for a, b in pairs if new.unk_token_id not in (a, b)])
    assert len(steps) >= 2
    cosine = torch.nn.functional.cosine_similarity(steps[0], steps[1], dim=0)
    assert cosine > 0.8  # one direction for all of them
    assert (steps.norm(dim=1) > 0).all()


def test_bytes_per_token(tokenizers):
    old, _ = tokenizers
    texts = ["the old town. é", "a river"]
    expected = sum(len(t.encode()) for t in texts) / sum(len(encode(old, t)) for t in texts)
    assert vocabulary.bytes_per_token(old, texts) == expected
    assert vocabulary.bytes_per_token(old, texts, most=3) == len(texts[0].encode()) / len(
        encode(old, texts[0])
    )


def test_a_run_makes_a_vocabulary_and_goes_on_with_it(train, text, tiny_model, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    flags = [*RUN, "--model", tiny_model, "--dataset", text, "--new_vocabulary", 310,
             "--max_steps", 4, "--save_strategy", "steps", "--save_steps", 2,
             "--save_total_limit", 2]  # fmt: skip
    code, err = train(*flags, "--output_dir", whole)
    assert code == 0, err
    assert "new vocabulary of 310 tokens: " in err
    assert AutoTokenizer.from_pretrained(whole).vocab_size == 310
    assert len(load_file(whole / "model.safetensors")["lm_head.bias"]) == 310
    out.mkdir()
    shutil.copytree(whole / "checkpoint-2", out / "checkpoint-2")
    code, err = train(*flags, "--output_dir", out, "--resume_from_checkpoint", "last")
    assert code == 0, err
    assert_same_weights(whole / "model.safetensors", out / "model.safetensors")
    assert losses(whole / "checkpoint-4") == losses(out / "checkpoint-4")


def test_a_type_that_cannot_be_moved_is_refused(tokenizers):
    with pytest.raises(UserError, match="ibert"):
        vocabulary.move(tiny("ibert", vocab=300), *tokenizers)
