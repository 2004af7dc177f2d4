"""A small tokenizer of each kind, texts that are hard to keep, and a model that writes anything."""

import re
from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import RobertaProcessing
from transformers import PreTrainedTokenizerFast

from diffusion.models.tokenizers import forbidden_ids, train_tokenizer
from diffusion.noise import Absorbing

TEXTS = [
    "The river runs through the old town and under the stone bridge.",
    "She opened the window, (3 ft) wide, and listened to the rain on the roof.",
    "In 1887 the railway reached the valley: it's 5,000 m long, un-built and unhappily run.",
    'He said: "We never saw the ship again," and closed the book.',
]

NASTY = [
    "It's  5,000 m, 日本 (3 ft) old.",
    "  The\triver \n\nruns   on.  ",
    "naïve café, cafe\u0301 🙂 👩\u200d👧 x\u0301\u0302y",
    "“curly” ‘quotes’ \"straight\" 'single' `tick` ``x''",
    "\nThe ﬁsh weighs ½ kg\u00a0or １２\u2003g.\n",
    "<mask> [MASK] </s> [SEP] [UNK] <unk> ##ing ▁x <0x41> Ġa </w>",
    "日本語の文 and 中文。",
    "a\u200bb\x00c\ufffdd",
    "\u200b",
    "x",
]

BERT = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _wrapped(tokenizer: Tokenizer, specials: list[str]) -> PreTrainedTokenizerFast:
    ours = ["[CLS]", "[CLS]", "[SEP]", "[SEP]", "[MASK]", "[PAD]", "[UNK]"]
    if specials is not BERT:
        ours = ["<s>", "<s>", "</s>", "</s>", "<mask>", "<pad>", "<unk>"]
    names = [f"{name}_token" for name in ("bos", "cls", "eos", "sep", "mask", "pad", "unk")]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(zip(names, ours, strict=True))
    )


WORDS = sorted({word for text in TEXTS for word in re.findall(r"\w+", text)})
LETTERS = sorted({letter for text in TEXTS for letter in text if letter != " "})


def wordpiece(**normalizer) -> PreTrainedTokenizerFast:
    """As BERT's; ``normalizer``: arguments of `BertNormalizer`."""
    lower = normalizer.get("lowercase", False)
    words = [word.lower() if lower else word for word in WORDS if len(word) < 6]
    pieces = [f"##{piece}" for piece in [*LETTERS, "er", "ing", "ly"]]
    vocabulary = dict.fromkeys([*BERT, *LETTERS, *"中語文字学校水火", *pieces, *words])
    own = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}))
    own.normalizer = normalizers.BertNormalizer(**{"lowercase": False} | normalizer)
    own.pre_tokenizer, own.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return _wrapped(own, BERT)


def unigram(lowercase: bool = False) -> PreTrainedTokenizerFast:
    """As XLM-R's and, in lower case, ALBERT's."""
    words = [f"▁{word.lower() if lowercase else word}" for word in WORDS if len(word) < 6]
    pieces = [*LETTERS, *"½ikg", "▁", "▁(", "er", "ing", "ly"]
    known = dict.fromkeys([*ROBERTA, *pieces, *words])
    own = Tokenizer(models.Unigram([(t, -1.0 - (len(t) < 3)) for t in known], unk_id=3))
    steps = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    own.normalizer = normalizers.Sequence(steps) if lowercase else normalizers.NFKC()
    split, space = pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()
    own.pre_tokenizer = pre_tokenizers.Sequence([split, space])
    own.decoder = decoders.Metaspace()
    return _wrapped(own, ROBERTA)


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama's: what has no token is bytes."""
    first = Tokenizer(models.BPE(unk_token="<unk>"))
    first.pre_tokenizer = pre_tokenizers.Metaspace()
    known = [*ROBERTA, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=known, show_progress=False)
    first.train_from_iterator(TEXTS * 3, trainer)
    vocabulary = first.get_vocab()
    merges = [
        (token[:cut], token[cut:])
        for token in sorted(vocabulary, key=vocabulary.get)[len(known) :]
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    own = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    own.decoder = decoders.Sequence([decoders.Replace("▁", " "), *steps])
    return _wrapped(own, ROBERTA)


def byte_level(**changes) -> PreTrainedTokenizerFast:
    """RoBERTa's; ``changes`` to the parts of the library's tokenizer."""
    tokenizer = train_tokenizer(TEXTS * 3, 320)
    for name, part in changes.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def suffixed() -> PreTrainedTokenizerFast:
    """As the first GPT's and XLM's: a piece says that a word ends."""
    own = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    own.pre_tokenizer, own.decoder = pre_tokenizers.BertPreTokenizer(), decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=220, special_tokens=ROBERTA, end_of_word_suffix="</w>", show_progress=False
    )
    own.train_from_iterator(TEXTS * 3, trainer)
    return _wrapped(own, ROBERTA)


MAKERS = {
    "wordpiece": wordpiece,
    "wordpiece, ideograms in words": lambda: wordpiece(handle_chinese_chars=False),
    "wordpiece, uncased": lambda: wordpiece(lowercase=True),
    "unigram": unigram,
    "unigram, uncased": lambda: unigram(lowercase=True),
    "byte fallback": byte_fallback,
    "byte-level": byte_level,
    "byte-level, another spelling": lambda: byte_level(normalizer=normalizers.NFC()),
    "byte-level, a space in front": lambda: byte_level(
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True),
        post_processor=RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True),
    ),
    "suffixes": suffixed,
}
KINDS = list(MAKERS)
# With rules for the edges of holes; `test_canvases` has the plain byte-level one.
RULED = ["wordpiece", "wordpiece, ideograms in words", "unigram", "byte fallback",
         "byte-level, another spelling"]  # fmt: skip


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return MAKERS[kind]()


class Anything:
    """A denoiser that finds all tokens equally likely."""

    passes, device = 1, torch.device("cpu")

    def __init__(self, tokenizer):
        self.noise, self.size = Absorbing.of(tokenizer), len(tokenizer)
        forbidden = forbidden_ids(tokenizer, self.size)
        self.forbidden = torch.tensor([*forbidden, tokenizer.eos_token_id])

    def start(self, canvas):
        return self

    def slots(self, query):
        return torch.full_like(query.ids[:, 0], query.ids.shape[1])

    def __call__(self, query):
        logits = torch.zeros(int(query.query_mask.sum()), self.size)
        return logits.index_fill_(1, self.forbidden, -torch.inf)
