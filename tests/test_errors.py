"""The exception that users see."""

from __future__ import annotations

from pathlib import Path

import pytest

from isochroma.errors import InputError, about, printable


class TestAbout:
    def test_path_stands_before_the_message(self) -> None:
        with pytest.raises(InputError) as caught, about(Path("a.nii")):
            msg = "the mask is empty."
            raise InputError(msg, "mask")
        assert str(caught.value) == "a.nii: the mask is empty."
        assert caught.value.argument == "mask"

    def test_other_errors_pass_through(self) -> None:
        with pytest.raises(KeyError) as caught, about(Path("a.nii")):
            raise KeyError("x")  # noqa: EM101
        assert caught.value.args == ("x",)


def test_control_characters_are_escaped() -> None:
    assert str(InputError("a\x1b[31m\n\u202eb\udcff é")) == r"a\x1b[31m\n\u202eb\udcff é"


def test_some_control_characters_may_stay() -> None:
    assert printable("a\tb\x1b\n", keep="\t\n") == "a\tb\\x1b\n"


def test_no_argument_by_default() -> None:
    assert InputError("no.").argument is None
