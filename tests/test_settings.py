"""Settings: frozen, of the declared types and ranges, and in JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import pytest
from pydantic import Field, field_validator, model_validator

from isochroma.errors import InputError
from isochroma.settings import choose, from_json, settings, to_json


@settings
class Blur:
    sigma: Annotated[float, Field(ge=0, lt=10)] = 1.0
    passes: Annotated[int, Field(ge=1)] = 1
    name: str = "plain"
    inside: bool = True
    sizes: tuple[Annotated[float, Field(gt=0)], ...] = (1.0, 2.0)
    limit: float | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        return choose(value, ("plain", "fancy"))


@settings
class Recipe:
    blur: Blur = dataclasses.field(default_factory=Blur)
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Recipe:
        if self.low >= self.high:
            msg = "high must be above low"
            raise ValueError(msg)
        return self


WRONG = {
    "negative": ({"sigma": -1.0}, "sigma: input should be greater than or equal to 0, not -1.0."),
    "at the open end": ({"sigma": 10}, "sigma: input should be less than 10, not 10."),
    "nan": ({"sigma": float("nan")}, "sigma: input should be a finite number, not nan."),
    "infinite": ({"limit": float("inf")}, "limit: input should be a finite number, not inf."),
    "number as text": ({"sigma": "1"}, "sigma: input should be a valid number, not '1'."),
    "fraction": ({"passes": 1.5}, "passes: input should be a valid integer, not 1.5."),
    "truth as integer": ({"passes": True}, "passes: input should be a valid integer, not True."),
    "integer as truth": ({"inside": 1}, "inside: input should be a valid boolean, not 1."),
    "number as name": ({"name": 3}, "name: input should be a valid string, not 3."),
    "unknown choice": ({"name": "odd"}, "name: 'odd' is unknown; choose one of plain, fancy."),
    "one of several": ({"sizes": (1, -2)}, "sizes.1: input should be greater than 0, not -2."),
    "none": ({"sigma": None}, "sigma: input should be a valid number, not None."),
    "unknown key": ({"colour": "red"}, "colour: no such setting."),
}


def refusal(kind: type, **values: object) -> InputError:
    with pytest.raises(InputError) as caught:
        kind(**values)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


class TestRefusals:
    @pytest.mark.parametrize("case", WRONG)
    def test_python(self, case: str) -> None:
        values, message = WRONG[case]
        error = refusal(Blur, **values)
        assert message.rstrip(".") in str(error)
        assert error.argument == message.split(":")[0]

    @pytest.mark.parametrize("case", WRONG)
    def test_nested_in_json(self, case: str) -> None:
        """The same refusals, with the path of the setting."""
        values, message = WRONG[case]
        with pytest.raises(InputError) as caught:
            from_json(Recipe, json.dumps({"blur": values}))
        start = message.split(", not")[0].rstrip(".")
        assert str(caught.value).startswith(f"blur.{start}")
        assert len(str(caught.value).splitlines()) == 1

    def test_long_values_are_not_shown(self) -> None:
        error = refusal(Blur, sigma="x" * 1000)
        assert str(error) == "sigma: input should be a valid number."

    def test_between_fields(self) -> None:
        assert str(refusal(Recipe, low=2.0)) == "high must be above low."

    def test_replace_checks_too(self) -> None:
        with pytest.raises(InputError, match=r"^passes: .* not 0\.$"):
            dataclasses.replace(Blur(), passes=0)

    @pytest.mark.parametrize("text", ["", "{", "[1]", "no json", '{"sigma": 1} {}'])
    def test_no_json_object(self, text: str) -> None:
        with pytest.raises(InputError) as caught:
            from_json(Blur, text)
        assert len(str(caught.value).splitlines()) == 1


class TestBasic:
    def test_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Blur().sigma = 2.0  # type: ignore[misc]

    def test_a_dataclass(self) -> None:
        recipe = Recipe(blur=Blur(sigma=2, sizes=(4.0,)))
        assert dataclasses.replace(recipe, low=-1.0).blur == recipe.blur
        assert dataclasses.asdict(recipe)["blur"]["sizes"] == (4.0,)

    def test_positional(self) -> None:
        assert Blur(2.0, 3) == Blur(sigma=2.0, passes=3)
        with pytest.raises(InputError, match=r"^passes: .* not 0\.$") as caught:
            Blur(2.0, 0)
        assert caught.value.argument == "passes"

    def test_too_many_values(self) -> None:
        with pytest.raises(InputError):
            Recipe(Blur(), 0.0, 1.0, 2.0)  # type: ignore[call-arg]

    def test_round_trip(self) -> None:
        recipe = Recipe(Blur(0.1, 7, "fancy", False, (0.5,), 3.25), -1e-300, 1e300)
        text = to_json(recipe)
        assert text.endswith("}\n")
        assert from_json(Recipe, text) == recipe
        assert from_json(Recipe, text.encode()) == recipe


class TestChoose:
    def test_known(self) -> None:
        assert choose("b", {"a": 1, "b": 2}) == "b"

    def test_unknown(self) -> None:
        with pytest.raises(InputError, match=r"^'c' is unknown; choose one of a, b\.$"):
            choose("c", {"a": 1, "b": 2})
