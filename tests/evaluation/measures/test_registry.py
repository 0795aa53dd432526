from __future__ import annotations

import pytest

from isochroma.evaluation.measures import PARTS, find
from isochroma.evaluation.measures.__main__ import documentation
from isochroma.evaluation.measures.registry import GROUP, Part
from isochroma.evaluation.measures.sample import NEEDS

ALL = [(part.name, measure) for part in PARTS.values() for measure in part.measures.values()]


class TestPart:
    def test_a_measure_is_registered_where_it_is_written(self) -> None:
        part = Part("p", "Part", "About.")

        @part.measure("m", "Measure", unit="mm", better=-1, of=GROUP, version=3)
        def compute() -> float:
            return 1.5

        (measure,) = part.of(GROUP)
        assert (measure.name, measure.unit, measure.better, measure.version) == ("m", "mm", -1, 3)
        assert measure.compute() == compute() == 1.5

    def test_no_name_twice(self) -> None:
        part = Part("p", "Part", "About.")
        part.measure("m", "Measure")(lambda: 0.0)
        with pytest.raises(ValueError, match="registered twice"):
            part.measure("m", "Measure")(lambda: 0.0)


class TestMeasures:
    @pytest.mark.parametrize(("part", "measure"), ALL)
    def test_every_measure_says_what_it_needs_and_is(self, part: str, measure: object) -> None:
        known = find(part, measure.name)  # type: ignore[attr-defined]
        assert known.title
        assert known.better in (-1, 0, 1)
        assert set(known.needs) <= set(NEEDS)
        assert known.compute.__doc__

    def test_the_documentation_names_them_all(self) -> None:
        page = documentation()
        for part, measure in ALL:
            assert f"| `{measure.name}` | {measure.title} |" in page
            assert measure.source in page
            assert PARTS[part].about in page
