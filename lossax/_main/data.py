"""Data for the main job: on disk, real, and in three parts that never mix."""

import csv
import importlib.resources
import math
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np

MOST = 1000
"""Examples that a part is measured on at most."""
WINDOW = 8
"""Characters that the next one is guessed from."""


class DataError(ValueError):
    """The file at fault and what is wrong with it."""


class Part(NamedTuple):
    """Inputs float `[examples, features]` or tokens `[examples, window]`, labels int `[examples]`."""

    x: np.ndarray
    y: np.ndarray


class Task(NamedTuple):
    """What is learned: one part to learn from, one to choose by, one to test the choice once."""

    name: str
    train: Part
    held_out: Part
    test: Part
    classes: int
    vocabulary: int | None = None

    @property
    def language(self) -> bool:
        """Whether the inputs are characters."""
        return self.vocabulary is not None

    @property
    def unit(self) -> str:
        """What cross-entropy is shown in."""
        return "bits per character" if self.language else "cross-entropy"

    def shown(self, cross_entropy: np.ndarray) -> np.ndarray:
        """Nats in that unit."""
        return cross_entropy / math.log(2) if self.language else cross_entropy


def load(name: str) -> Task:
    """The task called `digits` or `text`, or the one in a file that ends in .npz or .csv.

    Raises:
      DataError: if there is no such file, or it holds no classification task.
    """
    if name == "digits":
        with importlib.resources.as_file(importlib.resources.files("lossax") / "_data" / "digits.npz") as path:
            return _table("digits", *_npz(path))
    if name == "text":
        return _text()
    readers = {".npz": _npz, ".csv": _csv}
    path = pathlib.Path(name)
    if path.suffix.lower() not in readers:
        raise DataError(f"--data must be digits, text, or a file that ends in .npz or .csv, got {name!r}")
    try:
        x, y = readers[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not a text file: {error}") from error
    return _table(name, x, y)


def _npz(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Arrays `x` and `y` of a NumPy archive."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = {"x", "y"} - set(archive.files)
            if missing:
                raise DataError(f"{path}: needs arrays x and y, holds {sorted(archive.files)}")
            x, y = archive["x"], archive["y"]
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a NumPy archive of plain arrays: {error}") from error
    if x.ndim < 2 or y.shape != x.shape[:1]:
        raise DataError(f"{path}: needs x[examples, features] and y[examples], got x{list(x.shape)}, y{list(y.shape)}")
    if x.dtype.kind not in "fiub":
        raise DataError(f"{path}: x must be numbers, got {x.dtype}")
    return x.reshape(len(x), -1).astype(np.float32), y


def _csv(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Columns of numbers and, last, the label; a first row that is no numbers is a header."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        delimiter = max(",;\t", key=file.readline().count)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
        rows = [(reader.line_num, row) for row in reader if row]
    if rows and len(rows[0][1]) < 2:
        raise DataError(f"{path}: needs columns of numbers and, last, the label; found one column")
    if rows and not all(_is_number(cell) for cell in rows[0][1][:-1]):
        rows = rows[1:]
    for line, row in rows:
        if len(row) != len(rows[0][1]):
            raise DataError(f"{path}: line {line} has {len(row)} columns, the first row {len(rows[0][1])}")
        for column, cell in enumerate(row[:-1], 1):
            if not _is_number(cell):
                raise DataError(f"{path}: line {line}, column {column}: {cell!r} is not a number")
    x = np.array([[float(cell) for cell in row[:-1]] for _, row in rows], np.float32)
    return x, np.array([row[-1].strip() for _, row in rows])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _table(name: str, x: np.ndarray, y: np.ndarray) -> Task:
    """Three fifths to learn from, one to choose by, one to test; features centred and scaled by the first part."""
    if len(x) < 10:
        raise DataError(f"{name}: needs at least 10 examples, found {len(x)}")
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0] + 1
        raise DataError(f"{name}: example {row}, feature {column} is {x[row - 1, column - 1]}; numbers must be finite")
    classes, y = np.unique(y, return_inverse=True)
    if not 2 <= len(classes) <= max(2, len(x) // 2):
        raise DataError(f"{name}: the labels must name 2 classes or more, of 2 examples or more, found {len(classes)}")
    order = np.random.default_rng(0).permutation(len(x))
    train, held_out, test = np.split(order, [len(x) * 3 // 5, len(x) * 4 // 5])
    mean, spread = x[train].mean(axis=0), x[train].std(axis=0)
    x = (x - mean) / np.where(spread > 0, spread, 1)
    y = y.reshape(-1).astype(np.int32)
    parts = (Part(x[part], y[part]) for part in (train, held_out[:MOST], test[:MOST]))
    return Task(name, *parts, classes=len(classes))


def _text() -> Task:
    """The text of Python's `help()`: each character from those before it."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(f"text: this Python lacks pydoc_data.topics ({error}); choose --data digits") from error
    characters, tokens = np.unique(list("\n".join(topics.values())), return_inverse=True)
    tokens = tokens.reshape(-1).astype(np.int32)
    parts = []
    for part, most in zip(
        np.split(tokens, [len(tokens) * 8 // 10, len(tokens) * 9 // 10]), (None, MOST, MOST), strict=True
    ):
        every = 1 if most is None else max(1, (len(part) - WINDOW) // most)
        x = np.lib.stride_tricks.sliding_window_view(part, WINDOW)[:-1:every]
        parts.append(Part(np.ascontiguousarray(x[:most]), part[WINDOW::every][:most]))
    return Task("text", *parts, classes=len(characters), vocabulary=len(characters))
