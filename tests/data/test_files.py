"""A folder gives the files of each split, and files that are not read are named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.data_files import SPLIT_KEYWORDS

from telltune.data import files
from telltune.data.files import files_of, left_out
from telltune.data.loaders import read_examples
from telltune.errors import DataError
from telltune.recipe import DataSpec

PROJ = Path(__file__).parents[1] / "cases" / "folder" / "proj"
SPLITS = ("train", "dev", "test")


def make(folder: Path, *names: str) -> DataSpec:
    """Write a folder of files with one row each, whose prompt is the file's relative path."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"prompt": name, "completion": "c"}) + "\n")
    return DataSpec(path=str(folder))


def read(spec: DataSpec, split: Any = "train") -> list[str]:
    return [example.prompt for example in read_examples([spec], split=split)]


def test_a_folder_gives_each_split_its_own_file() -> None:
    spec = DataSpec(path=str(PROJ))
    train, test = read(spec), read(spec, "test")
    assert (len(train), len(test)) == (20, 10)
    assert not set(train) & set(test)
    with pytest.raises(DataError, match=r"no file name in .* dev \(found: test, train\)"):
        read(spec, "dev")
    assert left_out([(spec, "train")]) == {str(PROJ): "not read: test.jsonl (test)"}
    assert left_out([(spec, "train"), (spec, "test")]) == {}


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "dev.jsonl", "test.jsonl"),
        ("training.jsonl", "valid.jsonl", "eval.jsonl"),
        ("Train.jsonl", "VALIDATION.jsonl", "TEST.jsonl"),
        ("tickets-train.jsonl", "tickets_val.jsonl", "tickets.test.jsonl"),
        ("train2.jsonl", "dev2.jsonl", "test2.jsonl"),
        ("train/a.jsonl", "validation/a.jsonl", "test/a.jsonl"),
        ("data/train/a.jsonl", "data/dev/a.jsonl", "data/test/a.jsonl"),
        ("data/train-00000-of-00001.jsonl", "data/val-0.jsonl", "data/test-00000-of-00001.jsonl"),
        ("train/a.jsonl", "dev.jsonl", "data/test.jsonl"),
        ("trainset.jsonl", "valset.jsonl", "testdata.jsonl"),
        ("TicketsTrain.jsonl", "TicketsDev.jsonl", "TicketsTest.jsonl"),
    ],
)
def test_names_of_files_and_folders_say_the_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    spec = make(tmp_path, *names)
    assert [read(spec, split) for split in SPLITS] == [[name] for name in names]
    asked = spec.model_copy(update={"split": "validation"})
    assert read(asked) == [names[1]]


def test_words_for_splits_are_those_of_datasets() -> None:
    known = {word for words in SPLIT_KEYWORDS.values() for word in words}
    assert set(files._SPLIT_OF_WORD) == known
    for split, words in SPLIT_KEYWORDS.items():
        wanted = {"validation": "dev"}.get(str(split), str(split))
        assert {files._SPLIT_OF_WORD[word] for word in words} == {wanted}


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    shards = [f"data/train-{n:05}-of-00003.jsonl" for n in range(3)]
    spec = make(tmp_path, *reversed(shards), "data/test-00000-of-00001.jsonl", "README.md")
    assert read(spec) == shards


@pytest.mark.parametrize("split", SPLITS)
def test_where_no_name_says_a_split_all_files_are_read(tmp_path: Path, split: str) -> None:
    names = [
        "Größtest.jsonl",
        "contest.jsonl",
        "latest.jsonl",
        "testimonials.jsonl",
        "trainer.jsonl",
    ]
    assert read(make(tmp_path, *names), split) == names


def test_names_of_which_only_some_say_a_split_are_refused(tmp_path: Path) -> None:
    spec = make(tmp_path, "train.jsonl", "test.jsonl", "more.jsonl", "train_test.jsonl")
    with pytest.raises(DataError, match=r"some do not \(more.jsonl, train_test.jsonl\)") as error:
        read(spec)
    assert "`split: train`" in str(error.value)
    chosen = spec.model_copy(update={"split": "train"})
    assert read(chosen) == ["train.jsonl"]
    (told,) = left_out([(chosen, "train")]).values()
    assert told == "not read: more.jsonl, train_test.jsonl (no split); test.jsonl (test)"


def test_files_of_another_split_only_are_never_trained_on(tmp_path: Path) -> None:
    spec = make(tmp_path, "test.jsonl", "dev.jsonl")
    with pytest.raises(DataError, match=r"contains the split train \(found: dev, test\)"):
        read(spec)
    # Unless each of them is named.
    assert read(DataSpec(path=str(tmp_path / "test.jsonl"))) == ["test.jsonl"]


def test_a_pattern_gives_each_split_its_own_files(tmp_path: Path) -> None:
    make(tmp_path, "train-0.jsonl", "train-1.jsonl", "val.jsonl", "test.jsonl")
    spec = DataSpec(path=str(tmp_path / "*.jsonl"))
    assert read(spec) == ["train-0.jsonl", "train-1.jsonl"]
    assert read(spec, "test") == ["test.jsonl"]
    assert read(spec.model_copy(update={"split": "validation"})) == ["val.jsonl"]
    (told,) = left_out([(spec, "train"), (spec, "dev")]).values()
    assert told == "not read: test.jsonl (test)"
    with pytest.raises(DataError, match=r"no file name of the pattern .* \(found: dev, test\)"):
        read(DataSpec(path=str(tmp_path / "[tv]*[tl].jsonl")))


def test_a_pattern_that_says_a_split_itself_names_its_files(tmp_path: Path) -> None:
    make(tmp_path, "train.jsonl", "test-0.jsonl", "test-1.jsonl", "data/dev/a.jsonl")
    names = ["test-0.jsonl", "test-1.jsonl"]
    assert read(DataSpec(path=str(tmp_path / "test-*.jsonl"))) == names
    assert read(DataSpec(path=str(tmp_path / "data" / "dev" / "*.jsonl"))) == ["data/dev/a.jsonl"]


@pytest.mark.parametrize("folder", ["test", "train-data"])
def test_folders_above_a_pattern_say_no_split(tmp_path: Path, folder: str) -> None:
    names = [f"{folder}/a-0.jsonl", f"{folder}/a-1.jsonl"]
    make(tmp_path, *names)
    spec = DataSpec(path=str(tmp_path / folder / "a-*.jsonl"))
    assert read(spec) == read(spec, "test") == names


def test_what_is_hidden_or_no_data_is_left_out_and_named(tmp_path: Path) -> None:
    hidden = [".train.jsonl", "._train.jsonl", "_SUCCESS.json", ".ipynb_checkpoints/train.jsonl"]
    metadata = ["dataset_info.json", "state.json"]
    spec = make(tmp_path, "a.jsonl", *hidden, *metadata, "old/a.jsonl", "b.xlsx", "README.md")
    assert read(spec) == ["a.jsonl"]
    (told,) = left_out([(spec, "train")]).values()
    assert "._train.jsonl, .ipynb_checkpoints, .train.jsonl, _SUCCESS.json (hidden)" in told
    assert "b.xlsx (unsupported format)" in told
    assert "dataset_info.json, state.json (metadata)" in told
    assert "old (a folder)" in told
    assert "README" not in told


def test_a_folder_of_other_things_only_says_what_is_there(tmp_path: Path) -> None:
    spec = make(tmp_path, "main/train.jsonl", "socratic/train.jsonl", ".a.jsonl")
    with pytest.raises(DataError, match=r"no data files .*\.a\.jsonl, main, socratic"):
        read(spec)


def test_many_names_are_counted(tmp_path: Path) -> None:
    spec = make(tmp_path, "train.jsonl", *(f"test-{n}.jsonl" for n in range(30)))
    (told,) = left_out([(spec, "train")]).values()
    assert "test-12.jsonl, ... (test, 25 more)" in told


def test_a_folder_that_leads_back_to_itself_is_read_once(tmp_path: Path) -> None:
    spec = make(tmp_path, "train/a.jsonl")
    (tmp_path / "train" / "train").symlink_to(tmp_path, target_is_directory=True)
    assert read(spec) == ["train/a.jsonl"]


@pytest.mark.parametrize("split", ["unsupervised", "train[:10]", ""])
def test_a_split_that_no_name_says_is_refused(tmp_path: Path, split: str) -> None:
    spec = make(tmp_path, "train.jsonl", "test.jsonl").model_copy(update={"split": split})
    with pytest.raises(DataError, match="no file name in the folder"):
        read(spec)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_metadata_that_would_be_waited_for_are_refused(tmp_path: Path, name: str) -> None:
    spec = make(tmp_path, "a.jsonl")
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        read(spec)


# Folders that `datasets` saves


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    classes = datasets.ClassLabel(names=["neg", "pos"])
    features = datasets.Features(prompt=datasets.Value("string"), completion=classes)
    prompts = [f"film {n}" for n in range(2500)]
    given = {"prompt": prompts, "completion": [n % 2 for n in range(2500)]}
    return datasets.Dataset.from_dict(given, features=features)


def test_a_saved_data_set_is_read_in_its_order(tmp_path: Path, rows: datasets.Dataset) -> None:
    rows.save_to_disk(tmp_path / "saved", num_shards=3)
    spec = DataSpec(path=str(tmp_path / "saved"))
    examples = read_examples([spec])
    assert [e.prompt for e in examples] == rows["prompt"]
    assert [e.completion for e in examples[:2]] == ["neg", "pos"]
    assert examples[-1].origin.endswith("data-00002-of-00003.arrow:833")
    assert {e.source for e in examples} == {"saved"}
    assert left_out([(spec, "train")]) == {}


def test_a_shuffled_selection_is_read_as_it_was_saved(
    tmp_path: Path, rows: datasets.Dataset
) -> None:
    some = rows.shuffle(seed=1).select(range(100))
    some.save_to_disk(tmp_path / "saved")
    assert read(DataSpec(path=str(tmp_path / "saved"))) == some["prompt"]


def test_the_splits_of_a_saved_dictionary_are_told_apart(
    tmp_path: Path, rows: datasets.Dataset
) -> None:
    parts = {"train": range(20), "validation": range(20, 30), "test": range(30, 35)}
    saved = datasets.DatasetDict({name: rows.select(part) for name, part in parts.items()})
    saved["unsupervised"] = rows.select(range(35, 40))
    saved.save_to_disk(tmp_path / "all")
    spec = DataSpec(path=str(tmp_path / "all"))
    for split, name in zip(SPLITS, parts, strict=True):
        assert read(spec, split) == saved[name]["prompt"]
    asked = spec.model_copy(update={"split": "unsupervised"})
    assert read(asked) == saved["unsupervised"]["prompt"]
    (told,) = left_out([(spec, "train"), (spec, "test")]).values()
    assert told == "not read: validation, unsupervised (another split)"
    with pytest.raises(DataError, match=r"no split for nowhere: set `split` to one of train"):
        read(spec.model_copy(update={"split": "nowhere"}))


def test_two_saved_splits_for_one_purpose_ask_which(tmp_path: Path, rows: datasets.Dataset) -> None:
    names = ["train", "test_matched", "test_mismatched"]
    saved = datasets.DatasetDict({name: rows.select(range(3)) for name in names})
    saved.save_to_disk(tmp_path / "all")
    spec = DataSpec(path=str(tmp_path / "all"))
    with pytest.raises(DataError, match="more than one split for test"):
        read(spec, "test")
    assert len(read(spec.model_copy(update={"split": "test_matched"}), "test")) == 3


def test_data_sets_that_were_saved_into_folders_of_splits(
    tmp_path: Path, rows: datasets.Dataset
) -> None:
    for name, count in (("train", 4), ("test", 2)):
        rows.select(range(count)).save_to_disk(tmp_path / name)
    spec = DataSpec(path=str(tmp_path))
    assert [len(read(spec, "train")), len(read(spec, "test"))] == [4, 2]


@pytest.mark.parametrize("name", ["../a.arrow", "/etc/passwd", "", "\0"])
def test_a_saved_data_set_names_no_file_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match="contains no data files"):
        files_of(DataSpec(path=str(tmp_path)))


@pytest.mark.parametrize("content", ["", "[]", "3", '{"splits": 3}', "{" * 5000, '{"splits": []}'])
def test_metadata_of_another_kind_are_left_alone(tmp_path: Path, content: str) -> None:
    spec = make(tmp_path, "a.jsonl")
    for name in ("dataset_dict.json", "state.json"):
        (tmp_path / name).write_text(content)
    assert read(spec) == ["a.jsonl"]


def test_a_split_may_be_the_name_of_a_file(tmp_path: Path) -> None:
    for name in ("train_sft", "train_gen-00000-of-00002", "train_gen-00001-of-00002", "other"):
        (tmp_path / f"{name}.jsonl").touch()
    found = files_of(DataSpec(path=str(tmp_path), split="train_gen"))
    assert found is not None
    assert [path.name[:15] for path in found] == ["train_gen-00000", "train_gen-00001"]
    # The word for a split still means all of its files.
    assert len(files_of(DataSpec(path=str(tmp_path), split="train")) or ()) == 3


def test_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    link = tmp_path / "a.jsonl"
    link.symlink_to("gone.jsonl")
    with pytest.raises(DataError, match="a link to a missing file, or to itself"):
        files_of(DataSpec(path=str(link)))
