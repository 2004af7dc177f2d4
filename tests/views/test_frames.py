import json
import math
import subprocess
import sys
from types import SimpleNamespace

import torch
from tokenizers import decoders
from transformers.convert_slow_tokenizer import bytes_to_unicode

from diffusion.errors import printable
from diffusion.views import record
from diffusion.views.frames import Frame, Framer, State, legend, status_line, token_line

GIVEN, MASKED, FRESH, SETTLED, REMASKED, REPLACED, NOISE = State
BOS, PAD, EOS, MASK = 0, 1, 2, 3


class ByteTokenizer:
    """Byte-level BPE without merges: after four special tokens, token 4 + b is the byte b."""

    bos_token_id, pad_token_id, eos_token_id, sep_token_id = BOS, PAD, EOS, EOS
    mask_token_id, unk_token_id = MASK, None
    all_special_ids = (BOS, PAD, EOS, MASK)
    backend_tokenizer = SimpleNamespace(decoder=decoders.ByteLevel())

    def __init__(self):
        self.tokens = {4 + byte: letter for byte, letter in bytes_to_unicode().items()}
        self.tokens |= {BOS: "<s>", PAD: "<pad>", EOS: "</s>", MASK: "<mask>"}
        self.calls = 0

    def convert_ids_to_tokens(self, token_id):
        self.calls += 1
        return self.tokens.get(token_id)


def ids_of(text):
    return [4 + byte for byte in text.encode()]


def step_of(ids, states, **changes):
    """A batch of two rows: the first is all padding, the second what was asked for; None: padding."""
    length = len(ids)

    def flags(*wanted):
        return torch.tensor([[False] * length, [state in wanted for state in states]])

    fields = dict(
        index=1,
        total=4,
        nfe=torch.tensor([7, 1]),
        ids=torch.tensor([[PAD] * length, ids]),
        frozen=flags(GIVEN, None),
        masked=flags(MASKED, REMASKED),
        revealed=flags(FRESH, REPLACED),
        remasked=flags(REMASKED),
        confidence=torch.tensor([[math.nan] * length, [0.25] * length]),
        padding=torch.tensor([[True] * length, [state is None for state in states]]),
        slots=torch.tensor([40, 0]),
        seconds=0.5,
        random=flags(NOISE),
        replaced=flags(REPLACED),
        typed=(),
    )
    return SimpleNamespace(**(fields | changes))


def build(ids, states, **changes):
    return Framer(ByteTokenizer()).frame(step_of(ids, states, **changes), row=1)


def test_a_step_becomes_pieces_and_states_of_the_asked_row():
    ids = [BOS, *ids_of("ab"), MASK, *ids_of(" c"), MASK, EOS, PAD]
    states = [GIVEN, GIVEN, SETTLED, MASKED, FRESH, SETTLED, REMASKED, GIVEN, None]
    frame = build(ids, states, random=None, replaced=None)
    assert frame.pieces == ["a", "b", "", " ", "c", ""]
    assert frame.states == [GIVEN, SETTLED, MASKED, FRESH, SETTLED, REMASKED]
    assert (frame.index, frame.total, frame.nfe, frame.slots, frame.seconds) == (1, 4, 1, 0, 0.5)
    assert frame.ends == []  # the given </s> closes the canvas; nothing was written there
    assert frame.kinds() == {GIVEN, MASKED, FRESH, REMASKED, "doubt2"}


def test_random_tokens_and_replaced_ones_are_distinct_from_text():
    ids = [BOS, *ids_of("abcd"), EOS]
    states = [GIVEN, GIVEN, FRESH, REPLACED, NOISE, NOISE]
    frame = build(ids, states)
    assert frame.states == states[1:]
    assert frame.pieces == ["a", "b", "c", "d", ""]
    assert frame.ends == []  # a random </s> ends no text
    assert frame.written == 2
    assert "· 2 random ·" in status_line(frame) and "mask" not in status_line(frame)
    assert "0 masks" in status_line(build(ids, [GIVEN, GIVEN, FRESH, FRESH, FRESH, FRESH]))


def test_a_character_appears_at_its_last_byte():
    frame = build(ids_of("é京😀x"), [SETTLED] * 10)
    assert frame.pieces == ["", "é", "", "", "京", "", "", "", "😀", "x"]
    assert frame.text == "é京😀x"


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


def test_frames_survive_delta_coding_and_json():
    frames = [
        Frame([" é", "", ""], [GIVEN, MASKED, MASKED], 0, None, 0, 0.0, [], [None] * 3),
        Frame([" é", " a", ""], [GIVEN, FRESH, MASKED], 1, None, 1, 0.5, [], [None, 0.25, None]),
        Frame([" é", "", ""], [GIVEN, REMASKED, SETTLED], 2, None, 2, 0.75, [2], [None, None, 1.0]),
        Frame(
            [" é", "x", "", "!"], [GIVEN, FRESH, SETTLED, FRESH], 3, None, 3, 0.75, [], [None] * 4
        ),
    ]
    packed = json.loads(json.dumps(record.pack(frames)))
    assert [len(entry["changes"]) for entry in packed] == [3, 1, 2, 3]
    assert record.unpack(packed) == frames
    assert all(isinstance(state, State) for state in record.unpack(packed)[1].states)
    for entry in packed:  # as it was written with the predictions of soft-masking
        entry["changes"] = [[*change, [" b", 0.5]] for change in entry["changes"]]
    assert record.unpack(packed) == frames


def test_tints_follow_the_probability_of_settled_tokens():
    states = [GIVEN, FRESH, SETTLED, SETTLED, SETTLED, SETTLED, MASKED]
    known = [0.01, 0.01, 0.05, 0.2, 0.3, None, 0.01]
    frame = Frame(list("abcdefg"), states, 1, None, 1, 0.0, [], known)
    assert [frame.kind(i) for i in range(2, 6)] == ["doubt2", "doubt1", SETTLED, SETTLED]
    assert dict(legend(frame.kinds())) == {
        GIVEN: "prompt", SETTLED: "written before", FRESH: "written now", MASKED: "mask",
        "doubt2": "low confidence",
    }  # fmt: skip


def test_status_lines():
    frame = build([MASK, *ids_of("a")], [MASKED, FRESH], slots=torch.tensor([0, 9]))
    said = "step 1/4 · NFE 1 (9 slots) · 0.50 s · 1 mask · 2 tokens/s · 1.0 tokens/pass"
    assert status_line(frame) == said
    assert status_line(build(ids_of("a"), [FRESH], total=None)).startswith("step 1 ·")
    assert token_line(frame) == "0.50 s · 1 token · 2/s · 1 pass · 1.0 tokens/pass"
    frame = build([*ids_of("aé"), EOS], [GIVEN, FRESH, FRESH, FRESH])
    expected = "0.50 s · 1 character · 2/s · 1 pass · 3.0 tokens/pass"
    assert token_line(frame, unit="character") == expected
    start = build(ids_of("a"), [GIVEN], seconds=0.0, nfe=torch.tensor([0, 0]))
    assert token_line(start) == "0.00 s · 0 tokens · 0 passes"


def test_printable_disarms_what_steers_and_keeps_what_is_text():
    assert printable("a\x1b[31m\x07\x00\x9bb") == "a\\x1b[31m\\x07\\x00\\x9bb"
    assert printable("a\u202eb\u2066c\u2028d\ud800") == "a\\u202eb\\u2066c\\u2028d\\ud800"
    assert printable("x\r\ny\rz") == "x\ny\\rz"
    assert printable("\ta") == "    a"
    text = "naïve 東京 👩\u200d👧 हिन्दी e\u0301 $x_1$ \\n 100%\n"
    assert printable(text) == text


def test_the_views_start_without_heavy_imports():
    code = (
        "import sys, diffusion.views.record;"
        "print({'torch', 'transformers', 'matplotlib', 'numpy', 'PIL'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
