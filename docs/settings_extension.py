"""Let the Python reference show classes made by `isochroma.settings.settings` as dataclasses."""

from __future__ import annotations

from typing import Any

import griffe


class Settings(griffe.Extension):
    """Put the decorator `dataclass` in the place of `settings`, which makes one."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Replace the decorator of a class; the signature then has its fields and defaults."""
        for decorator in cls.decorators:
            if decorator.callable_path == "isochroma.settings.settings":
                decorator.value = griffe.ExprName("dataclasses.dataclass")
