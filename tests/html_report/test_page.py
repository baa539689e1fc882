"""Reports hold their charts' script, which is bundled once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import vl_convert

from telltune.html_report import page

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_later_process_finds_the_script_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path))
    bundled: list[str] = []

    def bundle(script: str) -> str:
        bundled.append(script)
        return "Vega & friends"

    monkeypatch.setattr(vl_convert, "javascript_bundle", bundle)
    found = []
    for _ in range(2):
        page._vega.cache_clear()  # as in a new process
        found.append(page._vega())
    page._vega.cache_clear()
    assert found == ["Vega & friends"] * 2
    assert bundled == ["window.vegaEmbed = vegaEmbed;"]
