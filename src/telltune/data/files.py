"""Resolution of a recipe's data sets to files, and of the files in a folder that are not read."""

from __future__ import annotations

import difflib
import json
import re
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from telltune.data.formats import DELIMITED, format_of, known_suffixes, stem_of
from telltune.data.parsed_row import MAX_ROW_BYTES
from telltune.data.safe_open import check_regular
from telltune.errors import DataError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from telltune.recipe import DataSpec

Split = Literal["train", "dev", "test"]

# The keywords of `datasets` (data_files.SPLIT_KEYWORDS), so that both split a folder alike.
_SPLIT_OF_WORD: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_WORD = re.compile(r"[^\W\d_]+")
_INNER_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SET = re.compile(r"(set|data)$")
# Metadata that `datasets` writes next to the data, in formats that data files also have.
_METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_NO_DATA = re.compile(r"(readme|license|licence|citation)\b.*", re.IGNORECASE)

SHOWN_FILES = 5

# Control characters and surrogates. Names appear in messages and next to predictions, where these
# cannot be written.
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class _Choice(NamedTuple):
    """Files of a folder to read, and the reason for each file that is not read."""

    files: list[Path]
    left_out: dict[Path, str]


def files_of(spec: DataSpec, split: Split = "train") -> list[Path] | None:
    """Return the data files of a spec in reading order, or None for a hub id.

    If file names in a folder contain splits, only the files of this split, or of `spec.split`, are
    returned.

    Raises:
        DataError: The file, folder or split does not exist, or the spec has a setting that does
            not apply to this kind of data.
    """
    choice = _choice(spec, split)
    return None if choice is None else choice.files


def left_out(specs: Iterable[tuple[DataSpec, Split]]) -> dict[str, str]:
    """Return, by folder, the files that no spec reads, with the reasons.

    Raises:
        DataError: See `files_of`.
    """
    choices = [(spec, choice) for spec, split in specs if (choice := _choice(spec, split))]
    files = {file for _, choice in choices for file in choice.files}
    read = files.union(*(file.parents for file in files))
    reasons: dict[str, dict[Path, str]] = {}
    for spec, choice in choices:
        for path, reason in choice.left_out.items():
            if path not in read:
                reasons.setdefault(spec.path, {})[path] = reason
    return {folder: f"not read: {_listed_by_reason(found)}" for folder, found in reasons.items()}


def _listed_by_reason(reasons: dict[Path, str]) -> str:
    parts = []
    for reason in dict.fromkeys(reasons.values()):
        paths = [path for path, why in reasons.items() if why == reason]
        more = len(paths) - SHOWN_FILES
        parts.append(f"{_names(paths)} ({reason}{f', {more} more' if more > 0 else ''})")
    return "; ".join(parts)


def suggestion(path: Path) -> str:
    """Return a hint at a similarly named file in the folder of a missing path, or ""."""
    try:
        neighbors = [file.name for file in path.parent.iterdir()]
    except OSError:
        return ""
    if path.name in neighbors:
        return " (a link to a missing file, or to itself)"
    near = difflib.get_close_matches(path.name, neighbors, n=1)
    return f" (did you mean {path.parent / near[0]}?)" if near else ""


def _choice(spec: DataSpec, split: Split) -> _Choice | None:
    if not spec.path.strip() or _UNWRITABLE.search(spec.path):
        raise DataError(f"{spec.path!a} is not a path: give a file, a folder or a hub data set.")
    path = Path(spec.path)
    try:
        path = path.expanduser()
        choice = _of_path(path, split, spec.split)
    except RuntimeError:  # raised for a path such as ~nobody/x
        raise DataError(f"{path} names a user without a home folder: check the path.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    on_hub = choice is None and _HUB_ID.fullmatch(spec.path) and format_of(path) is None
    if choice is None and not on_hub:
        raise DataError(f"no file or folder {path}{suggestion(path)}: check the path.")
    files = choice.files if choice else []
    for file in files:
        if _UNWRITABLE.search(str(file)):
            raise DataError(f"{str(file)!a} has a name that cannot be written: rename it.")
    if choice and spec.config is not None:
        raise DataError(
            f"{path} is on disk, but `config` applies only to hub data sets: remove `config`."
        )
    if spec.quoting != "auto" and not any(format_of(file) in DELIMITED for file in files):
        raise DataError(
            f"{path} is neither CSV nor TSV, but `quoting` applies only to them: remove `quoting`."
        )
    return choice


def _of_path(path: Path, split: Split, asked: str | None) -> _Choice | None:
    """Return the files to read for a path, or None if the path does not exist."""
    if not path.is_dir():
        if asked is not None and path.exists():
            raise DataError(
                f"{path} is a file, but `split` applies only to patterns, folders and hub data "
                "sets: remove `split`."
            )
        if not path.exists() and has_magic(str(path)):
            return _of_pattern(path, split, asked)
        return _Choice([path], {}) if path.exists() else None
    splits = _saved_splits(path)
    if splits is not None:
        return _of_splits(path, splits, split, asked)
    return _of_folder(path, split, asked)


def _of_pattern(pattern: Path, split: Split, asked: str | None) -> _Choice | None:
    """Return the files to read for a pattern, or None if no path matches it.

    A pattern that contains a split itself, such as `test-*.jsonl`, names its files.
    """
    # pathlib's own refuses some patterns.
    paths = sorted(map(Path, glob(str(pattern), recursive=True)))  # noqa: PTH207
    found = [path for path in paths if path.is_file()]
    fixed = next(parent for parent in pattern.parents if not has_magic(str(parent)))
    if not found or (asked is None and split_of(str(pattern.relative_to(fixed))) is not None):
        return _Choice(found, {}) if paths else None
    files = {path: split_of(str(path.relative_to(fixed))) for path in found}
    return _of_files(f"of the pattern {pattern}", files, {}, split, asked)


def _of_splits(folder: Path, names: list[str], split: Split, asked: str | None) -> _Choice:
    """Return the files to read for a `DatasetDict` on disk."""
    if asked in names:
        wanted = [asked]
    elif asked is None and not any(map(split_of, names)):
        wanted = names
    else:
        meant = _wanted(split, asked)
        wanted = [name for name in names if meant is not None and split_of(name) == meant]
        if len(wanted) != 1:
            raise DataError(
                f"{folder} has {'more than one' if wanted else 'no'} split for "
                f"{split if asked is None else shown(asked)}: set `split` to one of "
                f"{', '.join(map(shown, names))}."
            )
    files = []
    for name in wanted:
        saved = _saved_files(folder / name)
        if saved is None:
            raise DataError(f"{folder / name} is not a saved data set: save it again.")
        files += saved
    return _Choice(files, {folder / name: "another split" for name in names if name not in wanted})


def _of_folder(folder: Path, split: Split, asked: str | None) -> _Choice:
    """Return the files to read for a folder of files, or for a saved `Dataset`."""
    listed = list(_listed(folder))
    rest = {path: reason for path, reason in listed if reason}
    files = {path: split_of(str(path.relative_to(folder))) for path, why in listed if not why}
    if not files:
        raise DataError(
            f"the folder {folder} contains no data files ({', '.join(known_suffixes())})"
            f"{f', only {_names(rest)}' if rest else ''}: give a file or another folder."
        )
    return _of_files(f"in the folder {folder}", files, rest, split, asked)


def _of_files(
    where: str,
    files: dict[Path, Split | None],
    rest: dict[Path, str],
    split: Split,
    asked: str | None,
) -> _Choice:
    """Return those of several files that belong to a split.

    Args:
        where: Place of the files, for messages.
        files: Split that the name of each file contains.
        rest: Reasons for the files that are not read anyway.
        split: Use of the data.
        asked: Split that the recipe sets.
    """
    told = sorted({of for of in files.values() if of is not None})
    if not told and asked is None:
        return _Choice(list(files), rest)
    wanted = _wanted(split, asked)
    named = [path for path in files if wanted is None and stem_of(path) == asked]
    if named:
        return _Choice(named, rest | {p: files[p] or "no split" for p in files if p not in named})
    if wanted not in told:
        raise DataError(
            f"no file name {where} contains the split "
            f"{split if asked is None else shown(asked)} (found: {', '.join(told) or 'none'}): "
            "give the file itself."
        )
    untold = [path for path, of in files.items() if of is None]
    if untold and asked is None:
        raise DataError(
            f"some file names {where} contain a split ({', '.join(told)}) and some "
            f"do not ({_names(untold)}): list the files one by one, or set `split: {split}` to "
            "skip the latter."
        )
    rest |= {path: of or "no split" for path, of in files.items() if of != wanted}
    return _Choice([path for path, of in files.items() if of == wanted], rest)


def _listed(folder: Path, depth: int = 0) -> Iterator[tuple[Path, str]]:
    """Yield the contents of a data folder, with the reason if a path is not read ("" otherwise).

    Folders named after a split are searched, and so is `data`, where hub repositories keep files.
    """
    saved = _saved_files(folder)
    if saved is not None:
        yield from ((file, "") for file in saved)
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name.startswith((".", "_")):
                yield path, "hidden"
            elif depth == 0 and path.name == "data":
                yield from _listed(path, 1)
            elif depth < 2 and split_of(path.name) is not None:
                yield from _listed(path, 2)
            else:
                yield path, "a folder"
        elif format_of(path) is None:
            if not path.name.startswith(".") and not _NO_DATA.fullmatch(path.name):
                yield path, "unsupported format"
        elif path.name in _METADATA:
            yield path, "metadata"
        else:
            yield path, "hidden" if path.name.startswith((".", "_")) else ""


def _saved_splits(folder: Path) -> list[str] | None:
    """Return the splits of a saved `DatasetDict`, or None for any other folder."""
    told = _metadata(folder / "dataset_dict.json", "splits")
    return [name for name in map(str, told) if _is_name(name)] if told else None


def _saved_files(folder: Path) -> list[Path] | None:
    """Return the files of a saved `Dataset` in order, or None for any other folder."""
    told = _metadata(folder / "state.json", "_data_files")
    if told is None:
        return None
    names = [str(entry.get("filename")) for entry in told if isinstance(entry, dict)]
    return [folder / name for name in names if _is_name(name)]


def _metadata(path: Path, key: str) -> list[object] | None:
    """Return a list in a JSON file of a folder, or None if there is none."""
    try:
        check_regular(path)
        if path.stat().st_size > MAX_ROW_BYTES:
            return None
        found = json.loads(path.read_bytes())[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _wanted(split: Split, asked: str | None) -> Split | None:
    """Return the split to read: the recipe's if set (None if unknown), else `split`."""
    return split if asked is None else _SPLIT_OF_WORD.get(asked.casefold())


def _names(paths: Iterable[Path]) -> str:
    """Return the first few names, for messages."""
    names = [shown(path.name) for path in paths]
    return ", ".join(names[:SHOWN_FILES]) + (", ..." if len(names) > SHOWN_FILES else "")


def _is_name(name: str) -> bool:
    """Return whether a name refers to something directly in a folder, not outside it."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def split_of(name: str) -> Split | None:
    """Return the split whose word a name contains, or None for no split or several."""
    words = _WORD.findall(_INNER_CAPITAL.sub(" ", name))
    known = [_SET.sub("", word.casefold()) for word in words]
    said = {_SPLIT_OF_WORD[word] for word in known if word in _SPLIT_OF_WORD}
    return said.pop() if len(said) == 1 else None
