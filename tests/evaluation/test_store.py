from __future__ import annotations

import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest

from isochroma.evaluation.store import Store, compare_checksum


def never() -> None:
    message = "made again"
    raise AssertionError(message)


def write_slowly(folder: Path, number: int) -> float:
    """One key, whoever asks first."""
    values = Store(folder).get(("shared", 1), lambda: np.full(200_000, number))
    assert len(set(values.tolist())) == 1
    return float(values[0])


class TestStore:
    def test_a_result_is_made_once(self, tmp_path: Path) -> None:
        made = Store(tmp_path).get(("array", 1), lambda: np.arange(5))
        kept = Store(tmp_path).get(("array", 1), never)
        np.testing.assert_array_equal(made, kept)

    @pytest.mark.parametrize(
        "other", [("array", 2), ("other", 1), ("array", 1, 1), ("array", "1"), ("array", [1])]
    )
    def test_another_key_is_another_result(self, tmp_path: Path, other: tuple) -> None:
        store = Store(tmp_path)
        store.get(("array", 1), lambda: "first")
        assert store.get(other, lambda: "second") == "second"

    def test_the_order_of_settings_does_not_matter(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        store.get(("k", {"a": 1, "b": 2}), lambda: "kept")
        assert store.get(("k", {"b": 2, "a": 1}), never) == "kept"

    def test_none_is_a_result(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        assert store.get(("k",), lambda: None) is None
        assert store.get(("k",), never) is None

    def test_a_failure_is_not_kept(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        with pytest.raises(AssertionError, match="made again"):
            store.get(("k",), never)
        assert store.get(("k",), lambda: 1) == 1

    @pytest.mark.parametrize("place", [3, 40, -30, -1])
    def test_one_flipped_byte_is_found(self, tmp_path: Path, place: int) -> None:
        """Before the pickle in it is believed: it might ask for gigabytes."""
        store, key = Store(tmp_path), ("k", 1)
        store.get(key, lambda: np.arange(1000))
        data = bytearray(store.path(key).read_bytes())
        data[place] ^= 255
        store.path(key).write_bytes(data)
        with pytest.raises(zlib.error):
            compare_checksum(store.path(key))
        np.testing.assert_array_equal(store.get(key, lambda: np.arange(3)), np.arange(3))

    def test_an_entry_with_more_behind_it_is_made_again(self, tmp_path: Path) -> None:
        store, key = Store(tmp_path), ("k", 1)
        store.get(key, lambda: 1)
        store.path(key).write_bytes(store.path(key).read_bytes() + b"more")
        assert store.get(key, lambda: 2) == 2

    @pytest.mark.parametrize("damage", [b"", b"no pickle", None])
    def test_a_damaged_entry_is_made_again(self, tmp_path: Path, damage: bytes | None) -> None:
        store, key = Store(tmp_path), ("k", 1)
        store.get(key, lambda: np.arange(1000))
        path = store.path(key)
        path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
        np.testing.assert_array_equal(store.get(key, lambda: np.arange(3)), np.arange(3))
        np.testing.assert_array_equal(store.get(key, never), np.arange(3))

    def test_processes_that_write_one_entry_agree_on_whole_ones(self, tmp_path: Path) -> None:
        one = joblib.delayed(write_slowly)
        found = joblib.Parallel(2)(one(tmp_path, number) for number in range(6))
        assert write_slowly(tmp_path, 99) in found
