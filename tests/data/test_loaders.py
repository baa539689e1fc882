import json
import os
import sys
from contextlib import suppress
from datetime import date
from decimal import Decimal
from math import nan
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data.examples import Example, Problem
from telltune.data.files import files_of
from telltune.data.loaders import read_examples, scan, stream_examples
from telltune.data.report import ReadReport
from telltune.data.schemas import SCHEMAS
from telltune.errors import DataError
from telltune.recipe import Columns, DataSpec

GOOD = {"prompt": "p", "completion": "c"}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSpec(path=str(path))


def hub(monkeypatch, load_dataset):
    # A fake of the library, which takes seconds to import.
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_each_data_set_is_a_source_of_its_own_even_if_names_are_equal(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    a, b = (write(tmp_path / folder / "g.jsonl", GOOD, GOOD) for folder in ("a", "b"))
    rest = b.model_copy(update={"rows": (1, 2)})
    found = [example.source for example in read_examples([a, b, rest])]
    assert found == ["g", "g", "g (entry 2)", "g (entry 2)", "g (entry 3)"]


def test_examples_carry_source_and_origin(tmp_path):
    spec = write(tmp_path / "tickets.jsonl", GOOD, GOOD)
    first, second = read_examples([spec])
    assert (first.source, first.origin) == ("tickets", f"{tmp_path}/tickets.jsonl:1")
    assert second.origin == f"{tmp_path}/tickets.jsonl:2"


def test_problem_reads_as_file_line_reason():
    assert str(Problem("a.jsonl", 3, "no response")) == "a.jsonl:3: no response"


def test_scan_gives_problems_in_place_and_goes_on(tmp_path):
    spec = write(tmp_path / "a.jsonl", GOOD, {"prompt": "p"}, GOOD)
    kinds = [type(item) for item in scan(spec)]
    assert kinds == [Example, Problem, Example]


def test_schema_is_found_once_a_file(tmp_path):
    spec = write(tmp_path / "a.jsonl", {"text": "x"}, GOOD, {"prompt": "p"})
    unknown, _, missing = scan(spec)
    assert "match no supported schema" in unknown.reason
    assert missing.reason == "no response: key `completion` is missing"


def test_row_of_another_layout_is_told_by_line(tmp_path):
    other = {"messages": [{"role": "user", "content": "p"}]}
    first, second = scan(write(tmp_path / "a.jsonl", GOOD, other))
    assert isinstance(first, Example)
    assert second.line == 2
    assert second.reason == (
        "no prompt: key `prompt` is missing; the file starts as prompt/completion but this row is "
        "messages: use one layout per file"
    )


def test_keys_of_later_rows_are_counted_over_all_files(tmp_path):
    write(tmp_path / "a.jsonl", GOOD, GOOD | {"mood": "x"}, GOOD | {"mood": None})
    write(tmp_path / "b.jsonl", GOOD, GOOD | {"mood": "y", "messages": [1]})
    report = ReadReport()
    assert len(read_examples([DataSpec(path=str(tmp_path))], report)) == 5
    assert (report.rows, report.unread) == (5, {"mood": 2, "messages": 1})


def test_refused_rows_are_not_counted_as_read(tmp_path):
    report = ReadReport()
    rows = GOOD, {"prompt": "p", "completion": "", "mood": "x"}
    list(scan(write(tmp_path / "a.jsonl", *rows), report))
    assert (report.rows, report.unread) == (1, {})


def test_hub_classes_get_their_names(monkeypatch):
    class Rows(list):
        def __init__(self, *rows):
            super().__init__(rows)
            self.features = {"text": object(), "label": SimpleNamespace(names=["bad", "good"])}

    rows = Rows({"text": "a", "label": 1}, {"text": "b", "label": -1})
    hub(monkeypatch, lambda *_, **__: rows)
    example, problem = scan(DataSpec(path="owner/name"))
    assert example.completion == "good"
    assert problem.reason == "no response: key `label` is empty"


def test_columns_of_the_recipe_are_used(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("ticket,team\nhelp,billing\n")
    spec = DataSpec(path=str(path), columns=Columns(prompt="ticket", completion="team"))
    assert [(e.prompt, e.completion) for e in read_examples([spec])] == [("help", "billing")]


def test_error_names_first_problems_count_and_command(tmp_path):
    spec = write(tmp_path / "my a.jsonl", *[{"prompt": "p", "completion": None}] * 8)
    with pytest.raises(DataError) as error:
        read_examples([spec])
    message = str(error.value)
    assert message.startswith("8 problems in the data: ")
    assert f"{tmp_path}/my a.jsonl:1: no response: key `completion` is empty" in message
    assert "(and 7 more, at lines 2, 3, 4, 5, 6, ...)" in message
    assert message.endswith(f"`tell check '{tmp_path}/my a.jsonl'` lists them all.")


def test_a_stream_is_read_no_further_than_it_is_used(tmp_path):
    spec = write(tmp_path / "a.jsonl", *[GOOD] * 9, {"prompt": "p"}, GOOD, {"prompt": "p"})
    stream = stream_examples([spec, spec])
    assert [next(stream).origin for _ in range(9)] == [
        f"{tmp_path}/a.jsonl:{line}" for line in range(1, 10)
    ]
    with pytest.raises(DataError, match=r"^4 problems in the data: .*:10: no response"):
        next(stream)


SPELLED = [
    "1.0",
    "1e5",
    "0.10",
    "-0",
    "12345678901234567890123",
    "3.14159265358979323846",
    "1E-400",
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_numbers_reach_examples_as_the_file_spells_them(tmp_path, name):
    lines = [f'{{"prompt": "p", "completion": {text}}}' for text in SPELLED]
    mark = "," if name == "a.csv" else "\t"
    content = {
        "a.jsonl": "\n".join(lines),
        "a.json": f"[{','.join(lines)}]",
    }.get(name, "\n".join(f"{p}{mark}{c}" for p, c in [("prompt", "completion"), *_pairs()]))
    (tmp_path / name).write_text(content)
    examples = read_examples([DataSpec(path=str(tmp_path / name))])
    assert [example.completion for example in examples] == SPELLED


def _pairs():
    return [("p", text) for text in SPELLED]


def test_values_of_parquet_reach_examples_in_their_shortest_spelling(tmp_path):
    columns = {
        "1.50": pa.array([Decimal("1.50")], pa.decimal128(9, 2)),
        "0.1": pa.array([0.1], pa.float32()),
        "1.0": pa.array([1.0]),
        "9007199254740993": pa.array([2**53 + 1]),
        "true": pa.array([True]),
        "2024-02-29": pa.array([date(2024, 2, 29)]),
    }
    for spelled, column in columns.items():
        pq.write_table(pa.table({"prompt": ["p"], "completion": column}), tmp_path / "a.parquet")
        (example,) = read_examples([DataSpec(path=str(tmp_path / "a.parquet"))])
        assert example.completion == spelled


def test_an_error_names_the_recipe_where_a_file_alone_would_be_read_otherwise(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("ticket,team\n,billing\n")
    spec = DataSpec(path=str(path), columns=Columns(prompt="ticket", completion="team"))
    with pytest.raises(DataError, match=r"`tell check RECIPE` lists them all\.$"):
        read_examples([spec])


def test_rows_choose_examples_and_all_rows_are_checked(tmp_path):
    rows = [{"prompt": f"p{i}", "completion": "c"} for i in range(5)]
    spec = write(tmp_path / "a.jsonl", *rows)
    chosen = read_examples([spec.model_copy(update={"rows": (1, 3)})])
    assert [example.prompt for example in chosen] == ["p1", "p2"]
    with pytest.raises(DataError, match="contains 5 examples, but `rows` asks for 2 to 6"):
        read_examples([spec.model_copy(update={"rows": (2, 6)})])
    spec = write(tmp_path / "a.jsonl", *rows, {"prompt": "p"})
    with pytest.raises(DataError, match=r"^1 problem in the data"):
        read_examples([spec.model_copy(update={"rows": (1, 3)})])


def test_files_are_named_in_the_order_in_which_they_are_read(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        write(tmp_path / name, GOOD)
    named = files_of(DataSpec(path=str(tmp_path)))
    assert named == [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert files_of(DataSpec(path="owner/name")) is None


def test_folder_is_read_in_name_order_without_other_files(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        write(tmp_path / name, GOOD)
    (tmp_path / "README.md").write_text("# Data")
    (tmp_path / "c.jsonl").mkdir()
    examples = read_examples([DataSpec(path=str(tmp_path))])
    assert [example.source for example in examples] == ["a", "b"]


def test_folder_without_data_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="contains no data files"):
        read_examples([DataSpec(path=str(tmp_path))])


def test_missing_file_suggests_its_neighbour(tmp_path):
    write(tmp_path / "tickets.jsonl", GOOD)
    with pytest.raises(DataError, match=r"tikcets\.jsonl \(did you mean .*tickets\.jsonl\?\)"):
        read_examples([DataSpec(path=str(tmp_path / "tikcets.jsonl"))])


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder .*nowhere.*: check the path"):
        read_examples([DataSpec(path=str(tmp_path / "nowhere" / "a.jsonl"))])


@pytest.mark.parametrize("path", ["", " ", "a\0b", "x" * 5000])
def test_path_that_is_none_is_refused(path):
    with pytest.raises(DataError):
        read_examples([DataSpec(path=path)])


@settings(max_examples=60)
@given(st.text(st.characters()) | st.text("~/.ab\0\ud800\n*?", max_size=8))
def test_any_path_is_read_or_refused(path):
    with pytest.MonkeyPatch.context() as patch:
        hub(patch, lambda *_, **__: [])
        with suppress(DataError):
            for item in scan(DataSpec.model_construct(path=path, rows=None, columns=None)):
                assert isinstance(item, Example | Problem)


@pytest.mark.parametrize("name", [b"\xff.jsonl", b"a\nb.jsonl", b"\x1b[2J.jsonl"])
def test_name_that_cannot_be_written_is_refused(tmp_path, name):
    with open(os.path.join(os.fsencode(tmp_path), name), "w") as file:  # noqa: PTH118, PTH123
        file.write(json.dumps(GOOD))
    with pytest.raises(DataError, match="rename it") as error:
        read_examples([DataSpec(path=str(tmp_path))])
    str(error.value).encode()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/a.jsonl", "~nobody-of-that-name"])
def test_home_of_nobody_is_refused(path):
    with pytest.raises(DataError, match="a user without a home folder"):
        read_examples([DataSpec(path=path)])


def test_no_data_at_all_is_refused():
    with pytest.raises(DataError, match="no data given"):
        read_examples([])


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", "\n\n"), ("a.csv", "prompt,completion\n"), ("a.json", "[]")]
)
def test_file_without_rows_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="contains no rows"):
        read_examples([DataSpec(path=str(tmp_path / name))])


def test_hub_id_is_loaded_with_configuration_and_split(monkeypatch):
    asked = []

    def load_dataset(path, name, split):
        asked.append((path, name, split))
        return [GOOD, {"prompt": "p", "completion": ""}]

    hub(monkeypatch, load_dataset)
    example, problem = scan(DataSpec(path="owner/name", config="main"))
    assert asked == [("owner/name", "main", "train")]
    assert (example.source, example.origin) == ("owner/name", "owner/name:1")
    assert (problem.file, problem.line) == ("owner/name", 2)


def test_of_a_part_of_a_hub_data_set_the_rest_is_not_fetched(monkeypatch):
    def load_dataset(path, name, split, streaming):
        assert streaming
        for number in range(10):
            yield {"prompt": f"p{number}", "completion": "c"}
        pytest.fail("fetched what nobody asked for")

    hub(monkeypatch, load_dataset)
    found = read_examples([DataSpec(path="owner/name", rows=(4, 10))])
    assert [example.prompt for example in found] == [f"p{number}" for number in range(4, 10)]


def test_hub_failure_is_one_sentence(monkeypatch):
    def load_dataset(path, name, split):
        raise ConnectionError("offline\nand much more")

    hub(monkeypatch, load_dataset)
    with pytest.raises(DataError, match=r"cannot be loaded as a hub data set \(offline\)") as error:
        read_examples([DataSpec(path="owner/name")])
    assert "\n" not in str(error.value)


def test_missing_file_with_a_suffix_is_never_asked_of_the_hub(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    hub(monkeypatch, lambda **_: pytest.fail("asked the hub"))
    with pytest.raises(DataError, match=r"no file or folder data/train\.jsonl"):
        read_examples([DataSpec(path="data/train.jsonl")])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("config", "x", "`config` applies only to hub data sets"),
        ("split", "train", "`split` applies only to patterns, folders and hub data sets"),
        ("quoting", "none", "`quoting` applies only to them"),
    ],
)
def test_settings_that_a_file_cannot_have_are_refused(tmp_path, key, value, said):
    spec = write(tmp_path / "a.jsonl", GOOD).model_copy(update={key: value})
    with pytest.raises(DataError, match=said):
        read_examples([spec])


@pytest.mark.parametrize(("split", "asked"), [("train", "train"), ("dev", "validation")])
def test_a_hub_data_set_gives_the_split_that_the_data_are_for(monkeypatch, split, asked):
    def load_dataset(path, name, split):
        assert split == asked
        return [GOOD]

    hub(monkeypatch, load_dataset)
    assert read_examples([DataSpec(path="owner/name")], split=split)


def test_numbers_of_a_hub_data_set_are_text(monkeypatch):
    values = {"prompt": 7, "completion": Decimal("1.50"), "day": date(2024, 2, 29), "x": nan}
    hub(monkeypatch, lambda *_, **__: [values])
    (example,) = read_examples([DataSpec(path="owner/name")])
    assert (example.prompt, example.completion) == ("7", "1.50")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = {key for schema in SCHEMAS for key in schema.keys}
keys |= {"history", "choices", "options", "context", "tools", "weight", "thinking", "images"}
turns = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "from", "value"]),
        st.sampled_from(["user", "assistant", "human", "gpt", "system", "tool"]) | json_values,
    )
    | json_values
)


@settings(max_examples=20)
@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(sorted(keys)),
            json_values | turns,
        )
    )
)
def test_any_json_rows_give_only_printable_examples_and_problems(tmp_path, rows):
    for item in scan(write(tmp_path / "a.jsonl", *rows)):
        assert isinstance(item, Example | Problem)
        str(item).encode()
        if isinstance(item, Example):
            assert item.prompt.strip()
            assert item.completion.strip()


@pytest.fixture
def streamed(monkeypatch):
    """Fake a hub data set of 1,300 rows whose network may fail; return the rows that were read."""
    state = SimpleNamespace(read=[], until=1300, size=1300)

    class Stream:
        def shuffle(self, seed, buffer_size):
            return self

        def __iter__(self):
            for number in range(state.size):
                if number >= state.until:
                    raise ConnectionError("gone")
                state.read.append(number)
                yield {"prompt": f"p{number}", "completion": "c", "n": 1.50, "m": {"k": [7]}}

    hub(monkeypatch, lambda path, name, split, streaming: Stream())
    return state


def drawn(take):
    return list(scan(DataSpec(path="owner/name", take=take)))


def test_the_rows_of_a_hub_stream_are_read_once(streamed):
    first = drawn(20)
    assert streamed.read == [*range(1020)]
    streamed.until = 0  # without a network
    assert drawn(20) == first
    assert drawn(5) == first[:5]
    with pytest.raises(DataError, match="gone"):
        drawn(30)


def test_a_hub_stream_that_was_cut_goes_on_behind_the_rows_that_were_read(streamed):
    streamed.until = 1100
    with pytest.raises(DataError, match="gone"):
        drawn(2000)
    streamed.until = 1300
    found = drawn(5000)
    assert len(found) == len({example.prompt for example in found}) == 1300
    assert found[7].origin == f"owner/name:{int(found[7].prompt[1:]) + 1}"
    # It is known that there is no more.
    streamed.until = 0
    assert drawn(5000) == found
