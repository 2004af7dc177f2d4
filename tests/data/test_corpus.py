"""Text from files, tables and WikiText -> documents -> packed blocks."""

import json
import lzma

import datasets
import pytest
import torch

from diffusion.data import corpus, packing
from diffusion.errors import UserError
from diffusion.models import tokenizers
from diffusion.models.tokenizers import train_tokenizer

WIKITEXT = """
 = Robert Boulter =

 Robert Boulter is an English film , television and theatre actor . He had a guest @-@ starring role in 2000 .

 = = Career = =

 In 2004 Boulter landed a role as " Craig " in the episode " Teddy 's Story " . It was written by <unk> Stephens . He did n't leave ( not yet ) .
 <unk> and others .

 = K =

 K covers 1 @,@ 200 m ( 4 @.@ 5 ft ) and / or more : it isn 't small ; really !
"""
DOCUMENTS = [
    "Robert Boulter is an English film, television and theatre actor. He had a guest-starring role "
    'in 2000.\nIn 2004 Boulter landed a role as "Craig" in the episode "Teddy\'s Story". He '
    "didn't leave (not yet).",
    "K covers 1,200 m (4.5 ft) and/or more: it isn't small; really!",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat on the mat and looked at the other cat\n" * 20], 300)


# ---------------------------------------------------------------- WikiText


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("1 @,@ 200 m ( 4 ft )", "1,200 m (4 ft)"),
        ("well @-@ known 2 @.@ 5 %", "well-known 2.5%"),
        ("she did n't , and he 's not : we 've won ; they 'll see !", None),
        ('he said " yes " and " no " .', 'he said "yes" and "no".'),
        ("the dogs ' owner", "the dogs' owner"),
        ("£ 5 and $ 6 [ about ]", "£5 and $6 [about]"),
        ("either / or", "either/or"),
        ("  two   spaces  ", "two spaces"),
        ("already plain text, with (all) in place.", "already plain text, with (all) in place."),
    ],
)
def test_detokenize(words, text):
    expected = text or "she didn't, and he's not: we've won; they'll see!"
    assert corpus.detokenize(words) == expected


def test_wikitext_is_articles_without_headings_and_without_unk_sentences():
    assert corpus.wikitext_documents(WIKITEXT) == DOCUMENTS
    tail = "The tail of an article is text too."
    assert corpus.wikitext_documents(" The tail of an article is text too .\n") == [tail]


@pytest.mark.parametrize(
    "name", ["wikitext-2/train.txt", "wikitext-2/train.txt.xz", "train.txt", "wiki.train.tokens"]
)
def test_wikitext_files_are_found_by_their_names(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    raw = WIKITEXT.encode()
    path.write_bytes(lzma.compress(raw) if name.endswith("xz") else raw)
    assert corpus.load_documents("wikitext-2", "train", str(tmp_path)) == DOCUMENTS
    with pytest.raises(UserError, match=r"no WikiText-2 validation file .*valid\.txt"):
        corpus.load_documents("wikitext-2", "validation", str(tmp_path))


# ---------------------------------------------------------------- files and folders


def test_two_blank_lines_stand_between_documents():
    text = "a one\n\na two\n\n\n b one\n\n\n\n\n\nc one\n"
    assert corpus.plain_documents(text) == ["a one\na two", "b one", "c one"]


def test_a_text_file_plain_or_compressed_or_from_windows(tmp_path):
    text = "Déjà vu.\n\nTwo.\n\n\nThree 日本.\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress(text.encode()))
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    for name in ("a.txt", "b.txt.xz", "c.txt"):
        assert corpus.load_documents(str(tmp_path / name)) == ["Déjà vu.\nTwo.", "Three 日本."]


def test_a_folder_of_text_is_all_its_files_in_order(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    (tmp_path / "c.txt.xz").write_bytes(lzma.compress(b"text of c"))
    assert corpus.load_documents(str(tmp_path)) == ["text of a.txt", "text of b.txt", "text of c"]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "a.txt", r"a\.txt does not exist"),
        (b"", "a.txt", "has no text"),
        (b"  \n\n\n \n", "a.txt", "has no text"),
        (
            "Gr\u00fc\u00dfe".encode("latin-1"),
            "a.txt",
            r"a\.txt is not UTF-8 text \(byte 2, in line 1\)",
        ),
        (
            "text".encode("utf-16-le"),
            "a.txt",
            r"control characters \(U\+0000\), as .*UTF-16 without",
        ),
        (b"this was never compressed", "a.txt.xz", r"cannot read .*a\.txt\.xz"),
        (lzma.compress(b"text " * 1000)[:-20], "a.txt.xz", r"cannot read .*a\.txt\.xz"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, name, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        corpus.load_documents(str(path))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- tables


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where the data set library would keep copies; ours must not leave any."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    yield folder
    assert not folder.exists() or not any(p.is_file() for p in folder.rglob("*"))


def test_the_hub_form_of_wikitext_one_line_a_row(tmp_path, cache):
    """Folders of parquet files, one for each split, as `huggingface-cli download` saves them."""
    listed, lines = "", WIKITEXT.splitlines(keepends=True)
    for config in ("raw", "plain"):
        listed += f"- config_name: {config}\n  data_files:\n"
        (tmp_path / config).mkdir()
        for split in ("train", "test"):
            listed += f"  - split: {split}\n    path: {config}/{split}-*\n"
            rows = [*lines, f" This is the {split} split of {config} .\n"]
            table = datasets.Dataset.from_dict({"text": rows})
            table.to_parquet(tmp_path / config / f"{split}-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")

    def expected(config):
        return [DOCUMENTS[0], f"{DOCUMENTS[1]}\nThis is the test split of {config}."]

    def articles(folder, **how):
        return corpus.load_documents(str(folder), "test", wikitext=True, **how)

    assert articles(tmp_path, config="plain") == expected("plain")
    # One of the folders alone, without the list.
    assert articles(tmp_path / "raw") == expected("raw")
    with pytest.raises(UserError, match=r"cannot read .*Config name.*--dataset_config"):
        articles(tmp_path)  # several, none chosen


def test_other_tables_have_one_document_a_row(tmp_path, cache):
    rows = ["First story.\n\nIts end.", " ", "Second \u65e5\u672c.", None]
    folder = tmp_path / "stories"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": rows, "id": [0, 1, 2, 3]}).to_parquet(
        folder / "train.parquet"
    )
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
    expected = ["First story.\n\nIts end.", "Second \u65e5\u672c."]
    assert corpus.load_documents(str(folder)) == expected
    assert corpus.load_documents(str(folder / "train.parquet"), "validation") == expected
    assert corpus.load_documents(str(tmp_path / "lines.jsonl")) == expected
    with pytest.raises(UserError, match=r"has no validation split.*it has train"):
        corpus.load_documents(str(folder), "validation")


@pytest.mark.parametrize(
    ("ending", "streaming"), [("csv", False), ("jsonl", True), ("parquet", True)]
)
def test_the_column_of_the_text_can_be_named(tmp_path, cache, ending, streaming):
    rows = {"title": ["a", "b", "c"], "story": ["One,\nand two.", " ", "Three 日本."]}
    path = tmp_path / f"table.{ending}"
    table = datasets.Dataset.from_dict(rows)
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[ending](path)
    found = corpus.load_documents(str(path), column="story", streaming=streaming)
    assert list(found) == ["One,\nand two.", "Three 日本."]
    with pytest.raises(
        UserError, match=r"no column 'text' \(it has title, story\); .*--text_column"
    ):
        list(corpus.load_documents(str(path), streaming=streaming))


def test_a_stream_is_read_as_far_as_it_is_needed(tmp_path, cache, tokenizer):
    """The second file of the folder cannot be read, and is not."""
    rows = "".join(json.dumps({"text": f"the cat {i} sat on the mat"}) + "\n" for i in range(300))
    (tmp_path / "train-0.jsonl").write_text(rows)
    (tmp_path / "train-1.jsonl").write_text("not json")
    with pytest.raises(UserError, match=r"line 1 of .*train-1.jsonl is no JSON"):
        corpus.load_documents(str(tmp_path))
    stream = corpus.load_documents(str(tmp_path), streaming=True)
    blocks = packing.pack(stream, tokenizer, 8, most=5)
    documents = corpus.load_documents(str(tmp_path / "train-0.jsonl"))
    assert torch.equal(blocks, packing.pack(documents, tokenizer, 8)[:5])
    with pytest.raises(UserError, match=r"line 1 of .*train-1.jsonl is no JSON"):
        list(stream)
    with pytest.raises(UserError, match=r"'no/set' from the hub"):
        list(corpus.load_documents("no/set", streaming=True))


def test_wikitext_is_not_streamed(tmp_path, cache):
    """Its rows are lines of articles."""
    lines = WIKITEXT.splitlines(keepends=True)
    datasets.Dataset.from_dict({"text": lines}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match="leave out --streaming"):
        list(corpus.load_documents(str(tmp_path), streaming=True, wikitext=True))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": 3}\n', "line 1 of .* has a number in column 'text'"),
        ("a.jsonl", b"not json", "line 1 of .* is no JSON"),
        ("a.parquet", b"PAR1 and then nothing", "cannot read"),
        ("folder/a.unknown", b"x", "no file with a known ending"),
    ],
)
def test_bad_tables_are_refused(tmp_path, cache, capfd, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        corpus.load_documents(str(path if path.parent == tmp_path else path.parent))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- blocks


def test_packing_loses_only_the_tail(tokenizer):
    documents = ["the cat", "on the mat, \u65e5\u672c", "a", "and looked at the other cat " * 9]
    ends = tokenizer.eos_token_id
    stream = []
    for document in documents:
        stream += [*tokenizer(document, add_special_tokens=False)["input_ids"], ends]
    assert packing.token_stream(documents, tokenizer).tolist() == stream
    many = packing.token_stream(documents * 150, tokenizer)  # more than are tokenised at once
    assert many.tolist() == stream * 150

    for size in (2, 8, len(stream) + 1):
        blocks = packing.pack(documents, tokenizer, size)
        body = size - 1
        assert blocks.dtype == torch.int32
        assert blocks.shape == (len(stream) // body, size)
        assert (blocks[:, 0] == tokenizer.bos_token_id).all()
        kept = blocks[:, 1:].flatten().tolist()
        assert kept == stream[: len(kept)]
        assert len(stream) - len(kept) < body
    assert torch.equal(
        packing.pack(documents, tokenizer, 8, most=2), packing.pack(documents, tokenizer, 8)[:2]
    )
    with pytest.raises(UserError, match=f"the validation set has {len(stream)} tokens, too few"):
        packing.pack(documents, tokenizer, len(stream) + 2, "validation set")


def test_words_that_spell_special_tokens_are_words(tokenizer):
    text = "write <mask> or </s>, <s> and <pad> <unk>"
    stream = packing.token_stream([text], tokenizer)
    special = torch.isin(stream, torch.tensor(tokenizer.all_special_ids))
    assert special.tolist() == [False] * (len(stream) - 1) + [True]
    assert tokenizer.decode(stream[:-1]) == text


def test_byte_lengths_add_up_to_the_text(tokenizer):
    text = "the cat sat — d\u00e9j\u00e0 vu, \u65e5\u672c\u8a9e \U0001f9d1\u200d\U0001f680\n\ton the mat"
    sizes = tokenizers.token_byte_lengths(tokenizer, len(tokenizer) + 3)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert sizes[ids].sum() == len(text.encode())
    assert sizes[tokenizer.all_special_ids].tolist() == [0] * len(tokenizer.all_special_ids)
    assert sizes[len(tokenizer) :].tolist() == [0, 0, 0]


# ---------------------------------------------------------------- sampler


@pytest.mark.parametrize(("blocks", "batch"), [(23, 4), (3, 8), (1, 5), (16, 1)])
def test_the_sampler_numbers_every_sample_of_the_run(blocks, batch):
    sampler = packing.DrawSampler(blocks, batch, seed=1)
    assert len(sampler) % batch == 0
    assert len(sampler) == max(1, blocks // batch) * batch
    seen = []
    for epoch in range(3):
        sampler.start_at(epoch * len(sampler))
        pairs = list(sampler)
        assert len(pairs) == len(sampler)
        used = torch.bincount(torch.tensor([block for block, _ in pairs]), minlength=blocks)
        assert len(used) == blocks
        assert used.max() - used.min() <= 1  # as evenly as it goes, and no block twice if it can
        seen += pairs
    assert [draw for _, draw in seen] == list(range(3 * len(sampler)))


def test_the_sampler_depends_on_the_seed_and_on_the_epoch_of_a_draw_alone():
    def order(seed, draw):
        sampler = packing.DrawSampler(23, 4, seed)  # 20 draws an epoch
        sampler.start_at(draw)
        pairs = list(sampler)
        assert draw in [d for _, d in pairs]
        return [block for block, _ in pairs]

    assert order(1, 20) == order(1, 39)
    assert order(1, 19) != order(1, 20) != order(1, 40)
    assert order(1, 20) != order(2, 20)
