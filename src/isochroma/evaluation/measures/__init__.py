"""The measures, in the parts of the report.

To add one, write a function in the module of its part and register it there with `part.measure`;
the summary, the report and the documentation show it without further ado.
"""

from __future__ import annotations

from isochroma.evaluation.measures import (
    age,
    anatomy,
    audit,
    closeness,
    cost,
    pairs,
    regions,
    segmentation,
    sites,
    structure,
    truth,
)
from isochroma.evaluation.measures.registry import Measure, Part

# In the order of the report.
PARTS: dict[str, Part] = {
    module.part.name: module.part
    for module in (
        truth,
        pairs,
        closeness,
        anatomy,
        structure,
        segmentation,
        regions,
        age,
        sites,
        audit,
        cost,
    )
}


def find(part: str, name: str) -> Measure:
    """Return a registered measure by its part and name.

    Parameters
    ----------
    part, name : str
        As in results.csv.

    Returns
    -------
    measure : Measure
        The registered measure.

    Raises
    ------
    KeyError
        If there is none.
    """
    return PARTS[part].measures[name]
