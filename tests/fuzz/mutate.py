"""Change bytes, headers, cells and trees at random."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np

NUMBERS = (0, 1, -1, 2, 3, 7, 127, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**40)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e-45, 1e30, 3e38, -3e38, np.nan, np.inf, -np.inf)
CELLS = (
    *("", "n/a", "null", "~", "nan", "inf", "-1", "0", "1e999", "1_0", "0x10", "2020-01-01"),
    *("train", "val", "test", "Train", "yes", "true", "T1w", "a.nii.gz", "b.nii.gz", "no.nii.gz"),
    *("../a.nii.gz", "/", ".", "..", "/dev/zero", "\0", "\x1b[31m", "\x85", "\u2028", "\ufeff"),
    *("é", "\U0001d54f", "\udcff", "'", '"', '""', '"a\tb"', "\t", "\n", "\r", "#", "=1+1"),
    *("%s", "{}", "*a", "&a b", "!!python/object/apply:os.system ['true']", "!x", "[", "{", "? a"),
    *("- ", "|", ": ", "---", "...", "%YAML 9.9", "x" * 300, "x" * 200_000, "[" * 5000, "a,b"),
)
VALUES = (
    *(None, True, False, 0, 1, -1, 10**9, 10**30, -(10**30), 0.5, 1e-300, 1e300, -1.5),
    *(float("nan"), float("inf"), "", "32", "a", "\x1b[31m", "x" * 100_000, [], {}, [1], [None]),
    *([1] * 1000, "9" * 5000, [[[]]], {"a": 1}, {"": {}}),
)


def pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    """Choose one; unlike `rng.choice`, leave it as it is."""
    return choices[int(rng.integers(len(choices)))]


def damaged(rng: np.random.Generator, data: bytes, head: int = 400) -> bytes:
    """Flip, overwrite, cut, repeat, insert or drop bytes, up to three times; half in the head."""
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        end = min(head, len(data)) if rng.random() < 0.5 else len(data)
        at = int(rng.integers(end))
        size = int(min(len(data) - at, 2 ** rng.integers(0, 12)))
        garbage = rng.bytes(size)
        block = data[at : at + size]
        data = pick(
            rng,
            (
                data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :],
                data[:at] + garbage + data[at + size :],
                data[:at] + bytes(size) + data[at + size :],
                data[:at] + b"\xff" * min(size, 8) + data[at + min(size, 8) :],
                data[:at],
                data[:at] + block + data[at:],
                data[:at] + garbage + data[at:],
                data[:at] + data[at + size :],
            ),
        )
    return data


def changed_header(rng: np.random.Generator, image: nib.spatialimages.SpatialImage) -> bytes:
    """Set one to three fields of a header to extreme, neighbouring or random values."""
    header = image.header.copy()
    fields = header.structarr
    for _ in range(rng.integers(1, 4)):
        name = pick(rng, fields.dtype.names)
        values = np.atleast_1d(fields[name]).copy()
        place = tuple(int(rng.integers(n)) for n in values.shape)
        if values.dtype.kind in "iu":
            new = pick(rng, (pick(rng, NUMBERS), int(values[place]) + pick(rng, (-1, 1, 2, 64))))
            values[place] = np.array(new % 2**64, np.uint64).astype(values.dtype)
        elif values.dtype.kind == "f":
            with np.errstate(all="ignore"):
                new = pick(rng, (pick(rng, FLOATS), float(values[place]) * rng.normal(1, 0.5)))
                values[place] = np.float64(new).astype(values.dtype)
        else:
            values[place] = rng.bytes(values.dtype.itemsize)
        fields[name] = values.reshape(fields[name].shape)
    return header.binaryblock


def changed_rows(rng: np.random.Generator, rows: list[list[str]]) -> list[list[str]]:
    """Change, add, drop or repeat cells and rows of a table, up to four times."""
    rows = [list(row) for row in rows]
    for _ in range(rng.integers(1, 5)):
        row = pick(rng, rows)
        at = int(rng.integers(len(row))) if row else 0
        action = rng.integers(7)
        if action <= 2 and row:
            row[at] = pick(rng, CELLS)
        elif action == 3:
            row.insert(at, pick(rng, CELLS))
        elif action == 4 and row:
            del row[at]
        elif action == 5:
            rows.insert(int(rng.integers(len(rows) + 1)), list(pick(rng, rows)))
        elif len(rows) > 1:
            rows.remove(row)
    return rows


def changed_tree(rng: np.random.Generator, tree: Any) -> Any:
    """Change, drop, rename or add one entry somewhere in a tree of JSON values; copy the rest."""
    tree = json.loads(json.dumps(tree))
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return tree
        key = pick(rng, keys)
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        break
    action = rng.integers(6)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[pick(rng, CELLS)] = node.pop(key)
    elif action == 2 and isinstance(node[key], (int, float)):
        node[key] = node[key] * pick(rng, (0, -1, 2, 10, 1000, 1e-6, 1e6))
    else:
        node[key] = pick(rng, VALUES)
    return tree
