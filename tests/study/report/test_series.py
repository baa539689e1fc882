"""Rows are grouped into the lines of a chart and get their names."""

from __future__ import annotations

from dataclasses import replace

from telltune.study.report.series import Series, label_series, main_points, main_series
from telltune.study.statistics.summary import Point


def point(name: str, size: int | None, ratio: float | None) -> Point:
    return Point("routing", name, name, size, ratio, 0, 0, "accuracy", 0, 0, 0, None, 1, 9, 0, {})


def test_the_ratio_is_named_only_where_there_are_several() -> None:
    found = [point("sft", 3000, None), point("mix", 3000, 5), point("tell", 3000, 5)]
    assert list(label_series(found).values()) == ["sft", "mix", "tell"]
    labels = label_series([*found, point("tell", 3000, 0)])
    assert labels[Series("tell", 5)] == "tell at ratio 5"
    assert labels[Series("tell", 0)] == "tell at ratio 0"
    assert labels[Series("mix", 5)] == "mix"


def test_ratios_stand_by_their_method_and_grow() -> None:
    found = [point("tell", 3000, ratio) for ratio in (4, 20)]
    found += [point("mix", 3000, 4), point("tell", 3000, 0)]
    told = list(label_series(found).values())
    assert told == ["tell at ratio 0", "tell at ratio 4", "tell at ratio 20", "mix"]


def test_a_study_of_ratios_at_one_size_is_no_crowd_of_dots() -> None:
    curve = [point("tell", size, 5) for size in (3000, 10000)]
    ratios = [point("tell", 3000, ratio) for ratio in (0, 1, 20)]
    base = [point("base", None, None)]
    assert main_points([*base, *ratios, *curve]) == [*base, *curve]
    assert main_points(ratios) == ratios


def test_the_main_series_is_the_widest_of_its_own_name_near_the_default_ratio() -> None:
    ratios = [point("tell", 3000, ratio) for ratio in (0, 5, 60)]
    assert main_series([*ratios, point("mine", 3000, None)]) == {"tell": Series("tell", 5)}
    wide = [*ratios, point("tell", 10000, 0)]
    assert main_series(wide)["tell"] == Series("tell", 0)
    renamed = [replace(one, name="tell, few steps") for one in ratios]
    assert main_series(renamed) == {"tell": Series("tell, few steps", 5)}
    assert main_series([*renamed, point("tell", 3000, 60)])["tell"] == Series("tell", 60)
