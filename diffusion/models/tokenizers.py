"""Tokenizers: load one, train one, and what its ids stand for."""

import re
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast, RobertaTokenizerFast

from diffusion.errors import UserError, first_line
from diffusion.models.loading import locate, unreachable
from diffusion.text.spelling import Speller

# Tokens that stand for no text: fairseq's and BERT's rows to spare, T5's sentinels, CamemBERT's
# doubles of its specials.
FILLER = re.compile(
    r"madeupword\d+|\[unused\w+\]|<unused\w+>|▁?<extra_id_\d+>|</?\w+>NOTUSED|<\|?reserved\w*\|?>"
)


def load_tokenizer(name: str, needs_mask: bool = True):
    """A tokenizer that has a beginning, an end and, unless it is for GPT-2, ``<mask>``."""
    where, local = locate(name)
    if local and not any((Path(where) / f).is_file() for f in ("tokenizer.json", "vocab.json")):
        raise UserError(
            f"{where} has no tokenizer (tokenizer.json, or vocab.json with merges.txt); give one "
            "with --tokenizer"
        )
    try:
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                where, local_files_only=local, trust_remote_code=False
            )
        except Exception:
            # A bare vocab.json + merges.txt folder has no config that says which tokenizer it is.
            if not (local and (Path(where) / "merges.txt").is_file()):
                raise
            tokenizer = RobertaTokenizerFast.from_pretrained(where)
        tokenizer("a")  # what a damaged configuration breaks may come out in use
    except BaseException as error:
        # A damaged file makes the library panic, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if not local:
            raise unreachable(name, "tokenizer") from None
        raise UserError(
            f"cannot read the tokenizer in {where}: {first_line(error)}; it may be damaged"
        ) from None
    # BERT calls its beginning and end [CLS] and [SEP].
    if tokenizer.bos_token is None and tokenizer.cls_token is not None:
        tokenizer.bos_token = tokenizer.cls_token
    if tokenizer.eos_token is None and tokenizer.sep_token is not None:
        tokenizer.eos_token = tokenizer.sep_token
    for token in ("mask", "bos", "eos") if needs_mask else ("bos", "eos"):
        if getattr(tokenizer, f"{token}_token_id") is None:
            raise UserError(
                f"the tokenizer of {name} has no {token} token; diffusion needs a tokenizer of a "
                "masked language model, such as roberta-base's"
            )
    return tokenizer


def forbidden_ids(tokenizer, vocab_size: int) -> list[int]:
    """Ids that training never supervises, so a sampler must never write them: all specials but
    the end of text, rows beyond the tokenizer's last token, and fillers (`FILLER`)."""
    banned = set(tokenizer.all_special_ids)
    banned |= {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    banned |= {i for t, i in tokenizer.get_vocab().items() if FILLER.fullmatch(t)}
    banned |= set(range(len(tokenizer), vocab_size))
    return sorted(banned - {tokenizer.eos_token_id})


def train_tokenizer(documents: list[str], vocab_size: int):
    """A byte-level BPE with RoBERTa's special tokens and conventions, trained on ``documents``."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    # lstrip: "<mask>" in a string swallows the space before it, as the word it stands for would.
    mask = AddedToken("<mask>", lstrip=True, special=True)
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", mask],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(documents, trainer)
    bpe.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=mask,
    )


def token_byte_lengths(tokenizer, vocab_size: int) -> Tensor:
    """(V,) int64: how many bytes of text each token stands for, inside a text, with the space of a
    word; 0 for specials. Exact for a byte-level BPE; a sign of WordPiece may have no space."""
    sizes, speller = torch.zeros(vocab_size, dtype=torch.int64), Speller(tokenizer)
    special = set(tokenizer.all_special_ids)
    for index in range(min(vocab_size, len(tokenizer))):
        if index not in special:
            sizes[index] = len(speller.bytes_of(index))
    return sizes
