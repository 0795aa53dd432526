"""The page's texts."""

from __future__ import annotations

from isochroma.evaluation.report.page import code


def test_backticks_become_code_and_the_rest_is_escaped() -> None:
    assert code("a `b_c` < d") == "a <code>b_c</code> &lt; d"
