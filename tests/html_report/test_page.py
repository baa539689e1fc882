"""Reports hold their charts' script, which is bundled once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import vl_convert

from telltune.html_report import page

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("cache", "times"), [("folder", 1), ("file", 2)])
def test_the_script_comes_from_the_cache_if_there_is_one(
    cache: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")  # where no cache can be
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / cache))
    bundled: list[str] = []

    def bundle(script: str) -> str:
        bundled.append(script)
        return "Vega & friends"

    monkeypatch.setattr(vl_convert, "javascript_bundle", bundle)
    for _ in range(2):
        page._vega.cache_clear()  # as in a new process
        assert page._vega() == "Vega & friends"
    page._vega.cache_clear()
    assert len(bundled) == times
