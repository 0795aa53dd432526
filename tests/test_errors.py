"""The exception that users see."""

from __future__ import annotations

from pathlib import Path

import pytest

from isochroma.errors import InputError, about


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


def test_no_argument_by_default() -> None:
    assert InputError("no.").argument is None
