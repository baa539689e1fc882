"""Rows in lists, frames and data sets are read as those of a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
import pytest

from telltune.data.given import files_of_data, rows_of
from telltune.data.loaders import read_examples
from telltune.errors import DataError
from telltune.recipe import DataSpec

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = [
    {"text": "The parcel is late.", "label": "shipping", "stars": 1.50},
    {"text": "I was billed twice.", "label": "billing", "stars": None},
]


def of_pandas() -> Any:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([ROWS[1], *ROWS]).iloc[1:]  # its index starts at 1
    return frame.astype({"label": "category"})


def of_polars() -> Any:
    return pytest.importorskip("polars").DataFrame(ROWS)


def of_polars_categories() -> Any:
    polars = pytest.importorskip("polars")
    return of_polars().with_columns(polars.col("label").cast(polars.Categorical))


def of_arrow_categories() -> Any:
    import pyarrow as pa

    names = pa.array(["billing", "shipping"], pa.string_view())
    labels = pa.DictionaryArray.from_arrays(pa.array([1, 0]), names)
    table = of_arrow()
    return table.set_column(table.column_names.index("label"), "label", labels)


def of_arrow() -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(ROWS)


def of_datasets() -> Any:
    import datasets

    classes = datasets.ClassLabel(names=["billing", "shipping"])
    numbered = [row | {"label": number} for row, number in zip(ROWS, (1, 0), strict=True)]
    features = {"text": datasets.Value("string"), "label": classes}
    features["stars"] = datasets.Value("float64")
    data = datasets.Dataset.from_list([numbered[1], *numbered], datasets.Features(features))
    return data.select([1, 2])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ROWS, "list"),
        (lambda: tuple(ROWS), "list"),
        (of_pandas, "frame"),
        (of_polars, "frame"),
        (of_polars_categories, "frame"),
        (of_arrow_categories, "frame"),
        (of_arrow, "frame"),
        (of_datasets, "dataset"),
    ],
)
def test_all_kinds_of_data_give_the_same_rows(make: Callable[[], Any], name: str) -> None:
    found = rows_of(make())
    assert found.name == name
    assert found.rows == [
        {"text": "The parcel is late.", "label": "shipping", "stars": "1.5"},
        {"text": "I was billed twice.", "label": "billing", "stars": None},
    ]
    [path] = files_of_data(make())
    assert [path] == files_of_data(make()), "the file depends on the rows alone"
    examples = read_examples([DataSpec(path=path)])
    assert [example.origin for example in examples] == [f"{name}:1", f"{name}:2"]
    assert {example.source for example in examples} == {name}


def test_no_library_of_frames_is_imported() -> None:
    code = """
import sys, telltune
telltune.recipe_for([{"prompt": "a", "completion": "b"}] * 4)
assert not {"pandas", "polars"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_conversations_are_rows_of_messages() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for data in (turns, [turns], [{"messages": turns}]):
        assert rows_of(data).rows == [{"messages": turns}]


def test_data_by_split_are_files_by_split() -> None:
    import datasets

    data = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "validation": datasets.Dataset.from_list(ROWS)}
    )
    found = files_of_data(data)
    assert isinstance(found, dict)
    assert list(found) == ["train", "dev"]
    assert files_of_data({"train": ["a.csv", "b.csv"]}) == {"train": ["a.csv", "b.csv"]}


def test_numpy_values_become_plain_ones() -> None:
    [row] = rows_of([{"prompt": np.str_("a"), "label": np.int64(7), "tags": np.array(["x"])}]).rows
    assert row == {"prompt": "a", "label": "7", "tags": ["x"]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the list is empty: give at least one example."),
        (["a", 3], "list:1: the row is of type str"),
        ([{"prompt": "a"}, 3], "list:2: the row is of type int: give a dict such as"),
        ({"a": 1}, "data of type dict cannot be read"),
        (7, "data of type int cannot be read: give a path, a list of dicts, a frame"),
    ],
)
def test_other_data_are_refused_in_one_sentence(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows_of(data)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(b"a", "bytes"), ({"a"}, "set"), (Path("a"), "PosixPath"), ([{"a": object()}], "object")],
)
def test_objects_are_not_read_as_their_names(value: Any, kind: str) -> None:
    rows = [{"text": "a", "label": "b"}, {"text": value, "label": "b"}]
    with pytest.raises(DataError, match=f"list:2: `text` is or contains a value of type {kind}:"):
        rows_of(rows)


def test_bytes_in_a_frame_are_refused() -> None:
    with pytest.raises(DataError, match="frame:1: `text` is or contains a value of type bytes"):
        rows_of(pyarrow.table({"text": [b"a"], "label": ["b"]}))


def test_a_column_of_several_types_is_refused() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="give each column values of one type"):
        rows_of(pandas.DataFrame({"text": ["a", 1]}))


def test_a_stream_is_refused() -> None:
    import datasets

    stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    with pytest.raises(DataError, match="a streamed data set has no end"):
        rows_of(stream)


def test_errors_name_the_row_of_the_frame() -> None:
    frame = pytest.importorskip("polars").DataFrame({"text": ["a", ""], "label": ["x", "y"]})
    with pytest.raises(DataError, match=r"frame:2: .*`telltune.check` lists them all"):
        read_examples([DataSpec(path=files_of_data(frame)[0])])
