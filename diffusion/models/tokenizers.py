"""Tokenizers: load one, train one, and what its ids mean."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from diffusion import hardware
from diffusion.cli.options import Access
from diffusion.errors import UserError
from diffusion.models import loading
from diffusion.models.hub import PLAIN, embedded, how_to_get, locate, unreadable
from diffusion.noise import Noise, make_noise
from diffusion.text import Speller, encode

_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")  # the last: SentencePiece

# Tokens without text: fairseq's and BERT's rows to spare, T5's sentinels, CamemBERT's
# doubles of its specials.
FILLER = re.compile(
    r"madeupword\d+|\[unused\w+\]|<unused\w+>|▁?<extra_id_\d+>|</?\w+>NOTUSED|<\|?reserved\w*\|?>"
)


def load_tokenizer(
    name: str, needs_mask: bool = True, access: Access = PLAIN, config=None, add_mask: bool = False
):
    """A tokenizer that has a beginning, an end and, unless it is for GPT-2, ``<mask>``; `UserError`
    where it cannot be read, or lacks one of them.

    Args:
        config: of its model, which may know which of its tokens is the mask.
        add_mask: give it a ``<mask>`` after its last token where it has none.
    """
    where, local = locate(name)
    files = [path for pattern in _FILES for path in Path(where).glob(pattern)]
    if local and not files:
        raise UserError(
            f"{where} has no tokenizer (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a "
            "SentencePiece .model); give one with --tokenizer"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **how_to_get(local, access))
        tokenizer("a")  # a damaged configuration may fail in use alone
    except BaseException as error:
        # On a damaged file the library panics, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise unreadable("tokenizer", name, local, error) from None
    _find_mask(tokenizer, config, add_mask)
    name_ends(tokenizer, name, needs_mask)
    return tokenizer


def load_with_model(
    name: str, tokenizer: str | None, device: str, dtype: str, access: Access, causal: bool
):
    """(a masked or causal model, its tokenizer), ready to write."""
    hardware.use_all_cores()
    torch_device = hardware.choose_device(device)
    torch_dtype = hardware.choose_dtype(dtype, torch_device)
    config = None if causal else loading.load_config(name, access)  # it may know the mask
    found = load_tokenizer(tokenizer or name, not causal, access, config)
    load = loading.load_causal_lm if causal else loading.load_masked_lm
    model = load(name, found, access)
    return loading.place(model, torch_device, torch_dtype, exact=dtype == "auto"), found


def name_ends(tokenizer, name: str, needs_mask: bool = True) -> None:
    """Name the beginning and end of a tokenizer that calls them [CLS] and [SEP], as BERT's; raise
    `UserError` where it has none, or no mask."""
    for end, other in (("bos_token", "cls_token"), ("eos_token", "sep_token")):
        if getattr(tokenizer, end) is None and getattr(tokenizer, other) is not None:
            setattr(tokenizer, end, getattr(tokenizer, other))
    if tokenizer.bos_token is None and not needs_mask:  # Qwen2's documents begin at an end
        tokenizer.bos_token = tokenizer.eos_token
    for token in ("mask", "bos", "eos") if needs_mask else ("bos", "eos"):
        if getattr(tokenizer, f"{token}_token_id") is None:
            raise UserError(
                f"the tokenizer of {name} has no {token} token; diffusion needs a tokenizer of a "
                "masked language model, such as roberta-base's"
            )


def _find_mask(tokenizer, config, add: bool) -> None:
    """Name the mask of a tokenizer where only the model knows it (LLaDA's), or where the model has
    one more token than the tokenizer (MDLM's)."""
    if tokenizer.mask_token_id is not None:
        return
    known, size = getattr(config, "mask_token_id", None), getattr(config, "vocab_size", None)
    if type(known) is int and known < len(tokenizer):
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(known)
    elif add or size == len(tokenizer) + 1 or known == len(tokenizer):
        tokenizer.add_special_tokens({"mask_token": "<mask>"})


def forbidden_ids(tokenizer, vocab_size: int) -> list[int]:
    """Ids that training never supervises, so a sampler must never write them: all specials but
    the end of text, rows beyond the tokenizer's last token, and fillers (`FILLER`)."""
    banned = {*tokenizer.all_special_ids, *range(len(tokenizer), vocab_size)}
    banned |= {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    banned |= {i for t, i in tokenizer.get_vocab().items() if FILLER.fullmatch(t)}
    return sorted(banned - {tokenizer.eos_token_id})


def noise_of(tokenizer, config, name: str) -> Noise:
    """The noise that the model ``name`` was trained to remove, with the ids of its tokenizer;
    `UserError` where it is unknown."""
    size = config.vocab_size
    settings = loading.noise_settings(config, name)
    ids = {"mask_id": tokenizer.mask_token_id, "forbidden": forbidden_ids(tokenizer, size)}
    return make_noise(**settings, **ids, vocab_size=size)


def train_tokenizer(documents: list[str], vocab_size: int, pad_id: int = 1, all_bytes: bool = True):
    """A byte-level BPE with RoBERTa's special tokens and conventions, trained on ``documents``. ``pad_id``,
    0 to 4, is the id of ``<pad>``. Without ``all_bytes`` it knows only the bytes of the documents, and all
    others are ``<unk>``."""
    bpe = Tokenizer(models.BPE() if all_bytes else models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    # lstrip: "<mask>" in a string swallows the space before it, as the word that it hides would.
    mask = AddedToken("<mask>", lstrip=True, special=True)
    specials = ["<s>", "</s>", "<unk>", mask]
    specials.insert(pad_id, "<pad>")
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if all_bytes else [],
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer)
    first, last = (bpe.token_to_id(end) for end in ("<s>", "</s>"))
    bpe.post_processor = processors.RobertaProcessing(
        ("</s>", last), ("<s>", first), add_prefix_space=False
    )
    ends = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    others = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": mask}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **ends, **others)


def token_byte_lengths(tokenizer, vocab_size: int) -> Tensor:
    """(V,) int64: how many bytes each token adds inside a text, with the space of a word; 0 for
    specials. Exact for a byte-level BPE; punctuation of WordPiece may have no space."""
    sizes, speller = torch.zeros(vocab_size, dtype=torch.int64), Speller(tokenizer)
    special = set(tokenizer.all_special_ids)
    for index in range(min(vocab_size, len(tokenizer))):
        if index not in special:
            sizes[index] = len(speller.bytes_of(index))
    return sizes


RARE = 1.3  # times as many tokens a word as in the text that a model learned


def tokens_per_word(tokenizer, texts: Sequence[str]) -> float:
    """The tokens of texts, punctuation included, for each word of letters or digits."""
    words = sum(len(re.findall(r"\w+", text)) for text in texts)
    return sum(len(encode(tokenizer, text)) for text in texts) / max(1, words)


def far_prompt(tokenizer, config, name: str, prompts: Sequence[str]) -> str | None:
    """A note for the user where a prompt is far from the text that a model learned: the words of one,
    the first, fall into many more tokens than there. It names another embedded model that knows them."""

    def far(tokenizer, config, prompt: str) -> str | None:
        learned = loading.diffusion_settings(config).get("tokens_per_word")
        found = tokens_per_word(tokenizer, [prompt])
        if learned is None or found < RARE * learned:
            return None
        return f"{found:.1f} tokens a word, where that has {learned:.1f}"

    for prompt in filter(None, prompts):
        if why := far(tokenizer, config, prompt):
            note = f"{prompt[:40]!r} is far from the text that {name} learned: {why}; expect worse text"
            for other in embedded(config.model_type):
                theirs = loading.load_config(other)
                known = "tokens_per_word" in loading.diffusion_settings(theirs)
                if known and not far(load_tokenizer(other, False), theirs, prompt):
                    return f"{note}, or try --model {other}"
            return note
    return None
