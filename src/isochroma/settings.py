"""Validated settings: frozen dataclasses whose fields have types and ranges.

Every group of settings in the package is declared with `settings`. A value of the wrong type or
out of range raises an `InputError` of one line, wherever the value came from: Python, the command
line or a model's `config.json`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from typing import Any, TypeVar

import pydantic
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import dataclass_transform

from isochroma.errors import InputError

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def settings(kind: type[Kind]) -> type[Kind]:
    """Make a class a frozen dataclass that checks its values.

    Parameters
    ----------
    kind : type
        Class with annotated fields; `typing.Annotated` with `pydantic.Field` gives ranges.

    Returns
    -------
    kind : type
        A dataclass: `dataclasses.replace` and `dataclasses.asdict` work, unknown fields are
        refused, and numbers must be finite.

    Examples
    --------
    >>> @settings
    ... class Blur:
    ...     sigma: float = 1.0
    >>> Blur(sigma="wide")
    Traceback (most recent call last):
    ...
    isochroma.errors.InputError: sigma: input should be a valid number, not 'wide'.
    """
    options = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    checked: Any = pydantic_dataclass(frozen=True, config=options)(kind)
    validate = checked.__init__
    names = [field.name for field in dataclasses.fields(checked)]

    @functools.wraps(validate)
    def initialise(self: Any, *values: Any, **named: Any) -> None:
        by_name = dict(zip(names, values, strict=False))  # so that messages name the field
        try:
            validate(self, *values[len(names) :], **by_name, **named)
        except pydantic.ValidationError as error:
            raise _input_error(error) from None

    checked.__init__ = initialise
    return checked


def from_json(kind: type[Kind], text: str | bytes) -> Kind:
    """Read settings from JSON and check every value.

    Parameters
    ----------
    kind : type
        Class made by `settings`.
    text : str or bytes
        A JSON object.

    Returns
    -------
    values : kind
        The checked settings.

    Raises
    ------
    InputError
        If the text is not JSON, or a setting is unknown, missing, of another type or out of range.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_json(text)
    except pydantic.ValidationError as error:
        raise _input_error(error) from None


def to_json(values: Any) -> str:
    """Write settings as indented JSON that `from_json` reads.

    Parameters
    ----------
    values : object
        Instance of a class made by `settings`.

    Returns
    -------
    text : str
        JSON with a final newline.
    """
    return pydantic.TypeAdapter(type(values)).dump_json(values, indent=2).decode() + "\n"


def choose(value: str, known: Collection[str]) -> str:
    """Check that a name is one of a registry's.

    Parameters
    ----------
    value : str
        The name that was asked for.
    known : collection of str
        The registry.

    Returns
    -------
    value : str
        The same name.

    Raises
    ------
    InputError
        If the registry does not have it.
    """
    if value not in known:
        msg = f"{value!r} is unknown; choose one of {', '.join(known)}."
        raise InputError(msg)
    return value


def _input_error(error: pydantic.ValidationError) -> InputError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    cause = first.get("ctx", {}).get("error")
    shown = repr(first["input"])
    reason = first["msg"][0].lower() + first["msg"][1:]
    if isinstance(cause, ValueError):
        reason = str(cause)
    elif first["type"] == "unexpected_keyword_argument":
        reason = "no such setting"
    elif first["type"] not in ("missing", "json_invalid") and len(shown) <= 60:
        reason = f"{reason}, not {shown}"
    return InputError(f"{where}: {reason}." if where else f"{reason}.", where or None)
