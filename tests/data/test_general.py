"""General data are read when needed, tokenized once, and not confused with other data."""

import csv
import json
import sys
import tracemalloc
from types import SimpleNamespace

import pytest

from telltune.data import encoding, fingerprint, general
from telltune.data.contents import contents_of
from telltune.data.embedded import embedded_general
from telltune.data.encoding import Encoder
from telltune.data.encoding_cache import EncodingCache
from telltune.data.general import GeneralData
from telltune.data.tokenizer import KnownTokenizer
from telltune.errors import DataError
from telltune.recipe import DataSpec
from telltune.storage import cache_folder


def rows(numbers, word="twice"):
    return [
        {"prompt": f"Write {n} {word}.", "completion": " ".join([str(n)] * (1 + n % 5))}
        for n in numbers
    ]


@pytest.fixture
def path(tmp_path, write_jsonl):
    # The prompts contain the folder's name, since all tests share one cache.
    return write_jsonl(tmp_path / "general.jsonl", rows(range(50), tmp_path.name))


def data(*paths, **settings):
    specs = tuple(DataSpec(path=str(path), **settings) for path in paths)
    return GeneralData("general", specs)


def encode(tokenizer, examples, **settings):
    encodings = EncodingCache(KnownTokenizer.of(tokenizer), **settings)
    return encodings.encode(examples, examples.contents), encodings


def as_lists(encoded):
    return [(ids.tolist(), prompt) for ids, prompt in (encoded[i] for i in range(len(encoded)))]


@pytest.fixture
def reads(monkeypatch):
    """Return the data sets that were read; all files count as unchanged for a long time."""
    monkeypatch.setattr(fingerprint, "_TICK_NS", -(10**9))
    found = []
    scan = general.scan_general

    def counting(spec, report=None):
        found.append(spec.path)
        return scan(spec, report)

    monkeypatch.setattr(general, "scan_general", counting)
    return found


@pytest.fixture
def tokenized(monkeypatch):
    """Return a list that gets the number of texts in each call of the tokenizer."""
    counted = []
    tokenize = Encoder._tokenize

    def counting(self, texts):
        counted.append(len(texts))
        return tokenize(self, texts)

    monkeypatch.setattr(Encoder, "_tokenize", counting)
    return counted


def test_the_ids_are_those_of_the_examples_in_memory(path, tiny_tokenizer, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(encoding, "CHUNK", 7)
        mapped, _ = encode(tiny_tokenizer, data(path))
    whole = Encoder(tiny_tokenizer).encode(list(data(path)))
    assert as_lists(mapped) == as_lists(whole)
    assert mapped.ids.dtype == whole.ids.dtype


def test_a_second_run_neither_reads_nor_tokenizes(path, tiny_tokenizer, reads, tokenized):
    first, _ = encode(tiny_tokenizer, data(path))
    assert sum(tokenized) == 100
    # All rows are read once to check and hash them, and once to tokenize them.
    assert len(reads) == 2
    again = data(path)
    second, _ = encode(tiny_tokenizer, again)
    assert (sum(tokenized), len(reads)) == (100, 2)
    assert as_lists(first) == as_lists(second)
    assert again.contents == contents_of(data(path))


def test_changed_content_is_noticed(path, tiny_tokenizer, reads, tokenized):
    before = data(path)
    encode(tiny_tokenizer, before)
    text = path.read_text()
    path.write_text(text.replace("Write 7 ", "Write 8 "))
    assert len(path.read_text()) == len(text)
    after = data(path)
    assert after.contents.digest != before.contents.digest
    encoded, _ = encode(tiny_tokenizer, after)
    assert as_lists(encoded) == as_lists(Encoder(tiny_tokenizer).encode(list(after)))


def test_an_added_file_of_a_folder_is_noticed(tmp_path, path, write_jsonl, reads):
    assert data(tmp_path).contents.examples == 50
    write_jsonl(tmp_path / "more.jsonl", rows(range(3)))
    assert data(tmp_path).contents.examples == 53


def test_the_digest_tells_what_the_data_say_and_not_how(tmp_path, path, tiny_tokenizer, tokenized):
    table = tmp_path / "other.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(json.loads(line) for line in path.read_text().splitlines())
    assert data(table).contents.digest == data(path).contents.digest
    encode(tiny_tokenizer, data(path))
    encode(tiny_tokenizer, data(table))
    assert sum(tokenized) == 100


def test_settings_of_the_recipe_are_part_of_what_is_remembered(path, reads):
    assert data(path).contents.examples == 50
    assert data(path, rows=(10, 20)).contents == contents_of(list(data(path))[10:20])
    assert data(path, path).contents.examples == 100


@pytest.mark.parametrize("known", [False, True])
def test_a_faulty_row_is_refused_by_file_and_line_before_any_is_tokenized(
    path, tiny_tokenizer, reads, tokenized, known
):
    if known:
        encode(tiny_tokenizer, data(path))
        tokenized.clear()
    with path.open("a") as file:
        file.write('{"prompt": "p"}\n{"prompt": 1\n')
    with pytest.raises(DataError) as refusal:
        encode(tiny_tokenizer, data(path))
    assert str(refusal.value).startswith(f"2 problems in the data: {path}:51: no response")
    assert f"{path}:52: not JSON" in str(refusal.value)
    assert not tokenized


def test_data_that_change_between_two_looks_are_refused(path, tiny_tokenizer, write_jsonl):
    seen = data(path)
    assert seen.contents.examples == 50
    write_jsonl(path, rows(range(60), "never"))
    before = set(cache_folder("encoded").iterdir())
    with pytest.raises(DataError, match="changed while they were being read"):
        encode(tiny_tokenizer, seen)
    assert set(cache_folder("encoded").iterdir()) == before


def test_what_is_too_long_is_refused_by_file_and_line(path, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK", 7)
    lengths = Encoder(tiny_tokenizer).encode(list(data(path))).lengths
    limit = int(lengths.max()) - 1
    over = [i + 1 for i, length in enumerate(lengths) if length > limit]
    with pytest.raises(DataError) as refusal:
        encode(tiny_tokenizer, data(path), max_length=limit)
    for line in over[:5]:
        assert f"{path}:{line} ({limit + 1} tokens)" in str(refusal.value)
    assert ("more;" in str(refusal.value)) == (len(over) > 5)


def test_truncated_examples_are_named_in_every_run_by_where_they_stand(path, tiny_tokenizer):
    lengths = Encoder(tiny_tokenizer).encode(list(data(path))).lengths
    settings = {"max_length": int(lengths.max()) - 2, "too_long": "truncate"}
    lines = [i + 1 for i, n in enumerate(lengths) if n > settings["max_length"]]
    for _ in range(2):
        _, encodings = encode(tiny_tokenizer, data(path), **settings)
        assert encodings.truncated == [f"{path}:{line}" for line in lines]
    moved = path.rename(path.with_name("moved.jsonl"))
    _, encodings = encode(tiny_tokenizer, data(moved), **settings)
    assert encodings.truncated == [f"{moved}:{line}" for line in lines]
    with pytest.raises(DataError, match="longer than"):
        encode(tiny_tokenizer, data(moved), max_length=settings["max_length"])


def test_a_hub_data_set_is_read_and_tokenized_once_only(
    monkeypatch, tmp_path, tiny_tokenizer, reads, tokenized
):
    hub = SimpleNamespace(load_dataset=lambda path, name, split: rows(range(9), tmp_path.name))
    monkeypatch.setitem(sys.modules, "datasets", hub)
    for expected in (2, 3):
        found = data("owner/name")
        assert (found.contents.examples, found.contents.examples) == (9, 9)
        encode(tiny_tokenizer, found)
        # A later run reads it again, since it may have changed, but does not tokenize it.
        assert (len(reads), sum(tokenized)) == (expected, 18)


def test_the_embedded_data_are_known_without_being_made(reads):
    assert data("embedded").contents == contents_of(embedded_general())
    reads.clear()
    assert data("embedded").contents.examples == len(embedded_general())
    assert not reads


def test_memory_does_not_grow_with_the_number_of_examples(
    tmp_path, write_jsonl, tiny_tokenizer, monkeypatch
):
    monkeypatch.setattr(encoding, "CHUNK", 64)
    peaks = []
    for count in (250, 1000):
        path = write_jsonl(tmp_path / f"{count}.jsonl", rows(range(count), tmp_path.name))
        encodings, examples = EncodingCache(KnownTokenizer.of(tiny_tokenizer)), data(path)
        tracemalloc.start()
        encoded = encodings.encode(examples, examples.contents)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(encoded) == count
        peaks.append(peak)
    assert peaks[1] < 1.3 * peaks[0]


def test_what_is_not_read_is_told_again_from_memory(tmp_path, write_jsonl, reads):
    path = write_jsonl(tmp_path / "g.jsonl", [row | {"mood": "x"} for row in rows(range(3))])
    first, again = data(path), data(path)
    (warning,) = first.warnings
    assert warning.startswith("general: not read: `mood` (3 of 3 rows); ")
    assert again.warnings == first.warnings
    assert len(reads) == 1


@pytest.fixture
def shards(tmp_path, write_jsonl):
    """Five shards of 600 rows each; every prompt has the number of its shard."""
    (tmp_path / "shards").mkdir()
    for shard in range(5):
        numbers = range(shard * 1000, shard * 1000 + 600)
        write_jsonl(tmp_path / "shards" / f"part-{shard}.jsonl", rows(numbers, tmp_path.name))
    return str(tmp_path / "shards" / "part-*.jsonl")


def shards_of(examples):
    return {int(example.prompt.split()[1]) // 1000 for example in examples}


def test_a_stream_is_read_no_further_than_needed(shards, tmp_path):
    for last in sorted((tmp_path / "shards").iterdir())[-1:]:
        last.write_text("{broken")
    drawn = list(data(shards, take=40))
    assert len(drawn) == 40
    # 40 examples and a buffer of 1,000 are in the first two shards of the order.
    assert len(shards_of(drawn)) == 2
    found = data(shards, take=40).contents
    assert found.examples == 40
    assert found == contents_of(drawn)


def test_a_longer_part_of_a_stream_starts_with_a_shorter_one(shards):
    short, longer = (list(data(shards, take=take)) for take in (30, 900))
    assert longer[:30] == short
    assert len({example.prompt for example in longer}) == 900
    every = list(data(shards, take=10_000))
    assert every[:900] == longer
    assert sorted(e.origin for e in every) == sorted(e.origin for e in data(shards))
    assert [e.origin for e in every] != [e.origin for e in data(shards)]


def test_the_part_is_known_until_a_shard_changes(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_TICK_NS", -(10**9))
    stream = data(shards, take=2000)
    before = stream.contents
    monkeypatch.setattr(general, "scan_general", lambda *_: pytest.fail("read again"))
    assert data(shards, take=2000).contents == before
    monkeypatch.undo()
    monkeypatch.setattr(fingerprint, "_TICK_NS", -(10**9))
    for shard in (tmp_path / "shards").iterdir():
        shard.write_text(shard.read_text().replace("Write", "Copy"))
    assert data(shards, take=2000).contents != before


def test_a_broken_row_in_the_part_ends_the_reading(shards, tmp_path):
    for shard in (tmp_path / "shards").iterdir():
        shard.write_text('{"prompt": 1}\n' * 5000)
    with pytest.raises(DataError, match="20 problems"):
        list(data(shards, take=20))
