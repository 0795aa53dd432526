"""Draw the documentation's slices: python docs/figures.py (a minute)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isochroma.images.slices import save_slices
from isochroma.pipeline import Harmonizer

DOCS = Path(__file__).parent
SCAN = DOCS.parent / "examples" / "mni152_t2w.nii.gz"
WIDEST = 0.3  # expected error drawn white, share of the intensity range


def main() -> None:
    """Harmonize the example, and draw source and result, and what each stage makes of it."""
    result = Harmonizer.from_pretrained().run(SCAN)
    made, mask = result.rendering, result.source.mask
    assert made.revised is not None
    assert result.doubt is not None
    stages = {
        "1 source": result.source.image,
        "2 edges": 2.0 * made.edges - 1,
        "3 first pass": made.first,
        "4 refined": made.refined,
        "5 second stage": made.revised.image,
        "6 structure restored": made.output,
        "expected error": result.doubt.error / WIDEST - 1,
    }
    shown = {name: np.where(mask, volume, -1) for name, volume in stages.items()}
    save_slices(DOCS / "images" / "stages.png", shown)
    both = {"source": shown["1 source"], "harmonized": np.where(mask, made.mapped, -1)}
    save_slices(DOCS / "images" / "before_after_t2w.png", both)


if __name__ == "__main__":
    main()
