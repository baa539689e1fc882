"""Run each cell of a study once on one loaded base, across failures and interruptions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.fitting.output_folder import check_new, lock_folder
from telltune.study.cell_data import CellData
from telltune.study.planning import cells_left, expected_seconds, side_by_side
from telltune.study.results import RESULTS, ResultRow, Results
from telltune.study.worker import CellWorker
from telltune.training.progress import bar, phase
from telltune.training.trackers import check_trackers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from telltune.data.files import Split
    from telltune.recipe import Recipe
    from telltune.study.spec import Cell, ForgettingSpec


def claim_folder(out: Path) -> None:
    """Make an output folder that of a study, with a file for its rows.

    Raises:
        StorageError: The folder holds files, but no rows of a study; or it is in use.
    """
    with lock_folder(out):
        if not (out / RESULTS).exists():
            check_new(out)
            (out / RESULTS).touch()


def run_cells(
    cells: Sequence[Cell],
    forgetting: ForgettingSpec,
    out: Path,
    *,
    split: Split = "test",
    general: Recipe | None = None,
    whole: bool = False,
    progress: bool = True,
    elsewhere: Callable[..., Iterator[tuple[Cell, ResultRow]]] | None = None,
    data: CellData | None = None,
) -> list[ResultRow]:
    """Run the cells that have no finished row in `out` yet, in order.

    A failed cell gets a row with the reason and is retried by the next call. An interrupted cell
    resumes from its last checkpoint.

    Args:
        cells: Cells from `load_study`.
        forgetting: Settings of the forgetting measurements.
        out: Folder of the study; rows of other cells in it are kept.
        split: Split whose items are answered: `dev` if the scores are used for a choice.
        general: Recipe that names the general data for the forgetting measurements of every cell,
            even if no cell mixes it. Defaults to the recipe of the first cell with general data.
        whole: Whether these are all cells of the folder's study, so that its summary and report
            leave out rows of others.
        progress: Whether to show a progress bar.
        elsewhere: Function that runs the cells outside of this process; see `Cluster.run`.
        data: Data of these cells, if they have been read already.

    Raises:
        TellError: No cell can run, e.g. a task cannot be read or the folder is in use.
    """
    for cell in cells:
        check_trackers(cell.recipe.training.report_to)
    with lock_folder(out):
        results = Results(out)
        data = data or CellData.of_cells(cells, forgetting, split, general)
        worker = CellWorker(data, out)
        with phase("reading the data", shown=progress):
            keys = data.keys(cells)
        if whole:
            results.list_cells(keys)
        left = side_by_side(cells_left(keys, data, results))
        with bar(shown=progress) as shown:
            task = shown.add_task(
                "study", total=len(cells), completed=len(cells) - len(left), unit="cell"
            )

            def here() -> Iterator[tuple[Cell, ResultRow]]:
                for key, cell in left.items():
                    shown.update(task, description=cell.title)
                    yield cell, worker.run(cell, key)

            failed: dict[str, ResultRow] = {}
            running = here()
            if elsewhere is not None:
                ordered = _longest_first(left, results)
                running = elsewhere(ordered, forgetting, out, split, data.mixing)
            for cell, row in running:
                before = results.find(cell, row.key)
                if row.status == "failed":
                    failed[row.key] = row
                # A failure to measure more does not replace scores.
                if row.status == "done" or before is None or not data.is_same_work(cell, before):
                    results.append(row)
                if progress:
                    # One line per cell makes progress visible in a log file.
                    shown.console.print(f"{cell.title}: {_outcome(row)}", soft_wrap=True)
                shown.advance(task)
        for cell, key in keys.items():
            known = results.find(cell, key)
            if known is not None and not results.is_latest(cell, known):
                # The same work has a row under another name or from an earlier study version.
                results.append(replace(known, task=cell.task, name=cell.name))
    found = [failed.get(key) or results.find(cell, key) for cell, key in keys.items()]
    return [row for row in found if row is not None]


def _longest_first(cells: dict[str, Cell], results: Results) -> dict[str, Cell]:
    """Sort cells by descending time, so that no node runs a long cell while others are idle."""
    seconds = expected_seconds(list(cells.values()), results.rows)
    order = sorted(zip(cells, seconds, strict=True), key=lambda pair: -pair[1])
    return {key: cells[key] for key, _ in order}


def _outcome(row: ResultRow) -> str:
    if row.status == "failed":
        return f"failed: {row.reason}"
    scored = f"{row.metric} {row.score:.1f}, {sum(row.seconds.values()):,.0f} s"
    return "; ".join([scored, *row.warnings])
