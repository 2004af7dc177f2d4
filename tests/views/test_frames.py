import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from diffusion.errors import printable
from diffusion.text.spelling import Speller
from diffusion.views import record
from diffusion.views.frames import Frame, Framer, State, status_line

GIVEN, MASKED, FRESH, SETTLED, REMASKED, REPLACED, NOISE = State
BOS, PAD, EOS, MASK = 0, 1, 2, 3


class ByteTokenizer:
    """Byte-level BPE without merges: after four special tokens, token 4 + b is the byte b."""

    bos_token_id, pad_token_id, eos_token_id, sep_token_id = BOS, PAD, EOS, EOS
    mask_token_id, unk_token_id = MASK, None
    all_special_ids = (BOS, PAD, EOS, MASK)

    def __init__(self):
        from tokenizers.pre_tokenizers import ByteLevel

        # A word never splits characters here: the pre-tokenizer only spells bytes as characters.
        spell = ByteLevel(add_prefix_space=False, use_regex=False)
        spelled = {b: spell.pre_tokenize_str(chr(b))[0][0] for b in range(128)}
        for char in map(chr, range(128, 0x800)):
            for byte, letter in zip(char.encode(), spell.pre_tokenize_str(char)[0][0], strict=True):
                spelled[byte] = letter
        for char in ("ࠀ", "က", "京", "퀀", "\ue000", "\uf000", "😀", "\U000c0000", "\U00100000"):
            for byte, letter in zip(char.encode(), spell.pre_tokenize_str(char)[0][0], strict=True):
                spelled[byte] = letter
        self.tokens = {4 + b: letter for b, letter in spelled.items()}
        self.tokens |= {BOS: "<s>", PAD: "<pad>", EOS: "</s>", MASK: "<mask>"}
        self.calls = 0

    def get_vocab(self):
        return {token: i for i, token in self.tokens.items()}

    def convert_ids_to_tokens(self, token_id):
        self.calls += 1
        return self.tokens.get(token_id)


def ids_of(text):
    return [4 + byte for byte in text.encode()]


def build(ids, states, **other):
    fields = {"index": 1, "total": 4, "nfe": 1, "seconds": 0.5} | other
    return Framer(ByteTokenizer()).build(ids, states, **fields)


def step_of(ids, frozen=(), masked=(), revealed=(), remasked=()):
    """A batch of two rows: the first is all padding, the second what was asked for."""
    length = len(ids)

    def flags(positions):
        row = torch.zeros(length, dtype=torch.bool)
        row[list(positions)] = True
        return torch.stack([torch.zeros_like(row), row])

    return SimpleNamespace(
        index=3,
        total=10,
        nfe=torch.tensor([7, 5]),
        ids=torch.tensor([[PAD] * length, ids]),
        frozen=flags(frozen),
        masked=flags(masked),
        revealed=flags(revealed),
        remasked=flags(remasked),
        confidence=torch.tensor([[math.nan] * length, [0.25] * length]),
        padding=torch.tensor([[True] * length, [False] * length]),
        slots=torch.tensor([40, 60]),
        seconds=0.25,
        guesses=None,
        random=None,
        replaced=None,
        typed=(),
    )


def test_a_step_becomes_pieces_and_states_of_the_asked_row():
    ids = [BOS, *ids_of("ab"), MASK, *ids_of(" c"), MASK, EOS, PAD]
    step = step_of(ids, frozen=[0, 1, 7, 8], masked=[3, 6], revealed=[4], remasked=[6])
    frame = Framer(ByteTokenizer()).frame(step, row=1)
    assert frame.pieces == ["a", "b", "", " ", "c", ""]
    assert frame.states == [GIVEN, SETTLED, MASKED, FRESH, SETTLED, REMASKED]
    assert (frame.index, frame.total, frame.nfe, frame.seconds) == (3, 10, 5, 0.25)
    assert frame.masks == 2
    assert frame.ends == []  # the given </s> closes the canvas; nothing was written there


def test_masks_show_what_they_remember_by_its_strength():
    ids = [BOS, *ids_of("a"), MASK, MASK, MASK, *ids_of("b"), MASK]
    step = step_of(ids, frozen=[0, 1], masked=[2, 3, 4, 6], remasked=[6])
    told = torch.tensor([[0] * 7, [9, 9, *ids_of("x\x1b z"), 9]])
    strength = torch.tensor([[0.0] * 7, [0.9, 0.9, 0.05, 0.5, 0.01, 0.9, 0.2]])
    step.guesses = told[:, :7], strength
    frame = Framer(ByteTokenizer()).frame(step, row=1)
    assert [frame.guess(i) for i in range(6)] == [
        ("", 0), ("x", 1), ("\\x1b", 3), ("", 0), ("", 0), ("", 0)
    ]  # fmt: skip
    assert frame.pieces == ["a", "", "", "", "b", ""]  # a guess is no text
    step.guesses = None
    assert Framer(ByteTokenizer()).frame(step, row=1).guess(1) == ("", 0)


def test_random_tokens_and_replaced_ones_are_told_from_text():
    ids = [BOS, *ids_of("abcd"), EOS]
    step = step_of(ids, frozen=[0, 1], revealed=[2, 3])
    step.random, step.replaced = (
        torch.tensor([[False] * 6, [i in where for i in range(6)]]) for where in ((4, 5), (3,))
    )
    frame = Framer(ByteTokenizer()).frame(step, row=1)
    assert frame.states == [GIVEN, FRESH, REPLACED, NOISE, NOISE]
    assert frame.pieces == ["a", "b", "c", "d", ""]
    assert frame.ends == []  # a random </s> ends no text
    assert (frame.masks, frame.noise, frame.written) == (0, 2, 2)
    assert "· 2 random ·" in status_line(frame)
    assert "mask" not in status_line(frame)
    assert frame.doubt(2) == 1 and frame.doubt(3) == 0
    step.random = None
    assert "0 masks" in status_line(Framer(ByteTokenizer()).frame(step, row=1))


def test_each_token_is_looked_up_once():
    tokenizer = ByteTokenizer()
    framer = Framer(tokenizer)
    for _ in range(3):
        framer.build(ids_of("abca"), [SETTLED] * 4, index=0, total=1, nfe=0, seconds=0.0)
    assert tokenizer.calls == 3


def test_a_character_appears_at_its_last_byte():
    frame = build(ids_of("é京😀x"), [SETTLED] * 10)
    assert frame.pieces == ["", "é", "", "", "京", "", "", "", "😀", "x"]
    assert frame.text == "é京😀x"


def test_every_byte_is_spelled_back():
    tokenizer = ByteTokenizer()
    speller = Speller(tokenizer)
    known = [token for token in tokenizer.tokens if token > 3]
    assert len(known) > 190
    assert all(speller.bytes_of(token) == bytes([token - 4]) for token in known)


def test_broken_bytes_show_as_replacement_characters_in_their_own_place():
    lead, rest = ids_of("é")
    assert build([lead, *ids_of("a")], [SETTLED] * 2).pieces == ["�", "a"]
    assert build([*ids_of("a"), rest], [SETTLED] * 2).pieces == ["a", "�"]
    assert build([*ids_of("a"), lead], [SETTLED] * 2).pieces == ["a", "�"]


def test_bytes_beside_a_mask_may_still_become_a_character():
    lead, rest = ids_of("é")
    assert build([lead, MASK], [SETTLED, MASKED]).pieces == ["", ""]
    assert build([MASK, rest, *ids_of("a")], [MASKED, SETTLED, SETTLED]).pieces == ["", "", "a"]


def test_text_after_a_settled_end_is_hidden_but_masks_stay():
    ids = [*ids_of("ab"), EOS, *ids_of("c"), MASK, EOS]
    frame = build(ids, [GIVEN, SETTLED, SETTLED, SETTLED, MASKED, SETTLED])
    assert frame.text == "ab"
    assert frame.ends == [2]
    assert frame.shown(2) == "∎"
    assert len(frame.pieces) == 6 and frame.states[4] is MASKED


def test_a_fresh_end_ends_the_text_only_when_nothing_is_open():
    ids = [*ids_of("a"), EOS, *ids_of("c"), MASK]
    assert build(ids, [SETTLED, FRESH, SETTLED, MASKED]).text == "ac"
    assert build(ids[:3], [SETTLED, FRESH, SETTLED]).text == "a"


def test_an_end_before_given_text_hides_nothing_given():
    ids = [*ids_of("a"), EOS, *ids_of("z")]
    frame = build(ids, [GIVEN, SETTLED, GIVEN])
    assert frame.text == "az" and frame.ends == [1]


def test_what_masks_remember_survives_delta_coding_and_json():
    frames = [
        Frame(["a", "", ""], [GIVEN, MASKED, MASKED], 0, 2, 0, 0.0),
        Frame(["a", "", ""], [GIVEN, MASKED, MASKED], 1, 2, 1, 0.5,
              guesses=[None, (" é", 0.25), (" b", 0.5)]),
        Frame(["a", "", " b"], [GIVEN, MASKED, FRESH], 2, 2, 2, 0.75,
              guesses=[None, (" é", 0.5), None]),
    ]  # fmt: skip
    packed = json.loads(json.dumps(record.pack(frames)))
    assert record.unpack(packed) == frames and record.unpack(packed)[1].knows_guesses
    assert [len(entry["changes"]) for entry in packed] == [3, 2, 2]
    for wrong in ([1, 0.5], [" b", 1.5], [" b", "x"], [" b"], 7):
        packed[1]["changes"][0][4] = wrong
        with pytest.raises((ValueError, TypeError, AttributeError)):
            record.unpack(packed)


def test_frames_survive_delta_coding_and_json():
    frames = [
        Frame([" é", "", ""], [GIVEN, MASKED, MASKED], 0, None, 0, 0.0),
        Frame([" é", " a", ""], [GIVEN, FRESH, MASKED], 1, None, 1, 0.5, [], [None, 0.25, None]),
        Frame([" é", "", ""], [GIVEN, REMASKED, SETTLED], 2, None, 2, 0.75, [2], [None, None, 1.0]),
        Frame([" é", "x", "", "!"], [GIVEN, FRESH, SETTLED, FRESH], 3, None, 3, 0.75),
    ]
    packed = json.loads(json.dumps(record.pack(frames)))
    assert [len(entry["changes"]) for entry in packed] == [3, 1, 2, 3]
    assert record.unpack(packed) == frames
    assert all(isinstance(state, State) for state in record.unpack(packed)[1].states)
    for entry in packed:  # as version 1 wrote it
        entry["changes"] = [change[:3] for change in entry["changes"]]
    assert [frame.pieces for frame in record.unpack(packed)] == [frame.pieces for frame in frames]
    with pytest.raises(ValueError, match="1 pieces but 2 states"):
        Frame(["a"], [GIVEN, GIVEN], 0, None, 0, 0.0)


def test_doubt_follows_the_probability_of_written_tokens():
    frame = Frame(
        list("abcdefg"),
        [GIVEN, FRESH, SETTLED, SETTLED, SETTLED, SETTLED, MASKED],
        1, None, 1, 0.0, [], [0.01, 0.01, 0.05, 0.2, 0.3, None, 0.01],
    )  # fmt: skip
    assert [frame.doubt(i) for i in range(7)] == [0, 3, 2, 1, 0, 0, 0]


def test_status_line():
    frame = build([MASK, *ids_of("a")], [MASKED, FRESH])
    assert status_line(frame) == "step 1/4 · NFE 1 · 0.50 s · 1 mask · 2 tokens/s · 1.0 a pass"
    assert status_line(build(ids_of("a"), [FRESH], total=None)).startswith("step 1 ·")


def test_printable_disarms_what_steers_and_keeps_what_is_text():
    assert printable("a\x1b[31m\x07\x00\x9bb") == "a\\x1b[31m\\x07\\x00\\x9bb"
    assert printable("a\u202eb\u2066c\u2028d\ud800") == "a\\u202eb\\u2066c\\u2028d\\ud800"
    assert printable("x\r\ny\rz") == "x\ny\\x0dz"
    assert printable("\ta") == "    a"
    text = "naïve 東京 👩\u200d👧 हिन्दी e\u0301 $x_1$ \\n 100%\n"
    assert printable(text) == text


def test_a_hugging_face_tokenizer_gives_its_own_decoding():
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    text = " The café in 東京 was 😀.\nIt cost $5, the café was full."
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([text] * 5, 300, special_tokens=["<s>", "<pad>", "</s>", "<mask>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        mask_token="<mask>",
    )
    ids = tokenizer(text)["input_ids"]
    framer = Framer(tokenizer)
    assert framer.speller.kind == "ByteLevel"
    frame = framer.build(ids, [SETTLED] * len(ids), index=0, total=1, nfe=0, seconds=0.0)
    assert frame.text == text
    assert " café" in "".join(frame.pieces) and any(piece.startswith(" ") for piece in frame.pieces)


def test_the_views_start_without_heavy_imports():
    code = (
        "import sys, diffusion.views.frames, diffusion.views.terminal, diffusion.cli.files as files, diffusion.views.animation;"
        "files.check_animation_path('x.gif');"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
