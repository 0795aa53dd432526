"""The last table of docs/results.md: python benchmarks/readme_table.py --data DIR [--paper].

Held-out scans only: the target's `test` subjects (never trained or selected on) and one person
imaged in three contrasts. All scores are in-mask; intensities are scaled to [0, 1] by the
target's limits.

own        each test scan from its own edges (without the refinement that follows the source, which
           is the truth here)
simulated  each test scan as four simulated scanners would show it (bias, blur and noise added),
           harmonized back; the scan itself is the truth
kirby113   T1w, T2w and FLAIR of one person: agreement of each pair

Each method's scores are kept in OUT, a JSON file; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from held_out import simulated, target_scans

from isochroma.baselines import match_histogram
from isochroma.harmonize import PAPER_SAMPLING, Harmonizer, Result, SamplingSettings
from isochroma.metrics import ncc, psnr, ssim
from isochroma.model import load_model
from isochroma.preprocess import (
    Prepared,
    from_model_units,
)
from isochroma.preview import save_preview
from isochroma.simulate import SCANNERS
from isochroma.volume import load

Scores = dict[str, dict[str, float]]


class Bench:
    """Runs every method on every scan, once."""

    def __init__(self, model: str, out: Path, previews: Path, paper: bool, precision: str) -> None:
        network, config = load_model(model)
        self.target = config.target
        alone = SamplingSettings(refine="none")
        self.harmonizers = {
            "edges alone": Harmonizer(network, config, sampling=alone),
            "default": Harmonizer(network, config),
        }
        if paper:
            self.harmonizers["paper mode"] = Harmonizer(
                network, config, sampling=PAPER_SAMPLING, precision=precision
            )
        self.preprocess = config.preprocess
        self.out = out
        self.previews = previews
        self.scores: Scores = json.loads(out.read_text()) if out.is_file() else {}
        if self.scores.setdefault("model", {"sha256": config.sha256}) != {"sha256": config.sha256}:
            message = f"{out} holds the scores of other weights; move it away"
            raise SystemExit(message)

    def keep(self, key: str, scores: dict[str, float]) -> None:
        """Store one row and show it."""
        self.scores[key] = {name: round(value, 4) for name, value in scores.items()}
        self.out.write_text(json.dumps(self.scores, indent=1) + "\n")
        print(key, self.scores[key], flush=True)

    def against_truth(self, case: str, scan: Prepared, source: Prepared | None = None) -> None:
        """Every method's PSNR and SSIM for a scan whose truth is `scan`."""
        source = source or scan
        outputs = {
            "source": lambda: source.image,
            "histogram matching": lambda: match_histogram(
                source.image, source.mask, np.array(self.target.quantiles)
            ),
            **{name: lambda h=h: h.translate(source) for name, h in self.harmonizers.items()},
        }
        shown = {"source": source.image, "truth": scan.image}
        for method, run in outputs.items():
            key = f"{case}/{method}"
            given_away = source is scan and method not in ("edges alone", "paper mode")
            if key in self.scores or given_away:  # nothing to find where the source is the truth
                continue
            output = run()
            shown[method] = output
            self.keep(
                key,
                {
                    "psnr": psnr(output, scan.image, scan.mask, 2),
                    "ssim": ssim(
                        *(from_model_units(v, 0, 1) for v in (output, scan.image)), scan.mask, 1
                    ),
                },
            )
        if len(shown) > 2:
            save_preview(self.previews / f"{case.replace('/', '_')}.png", shown)

    def target_tests(self, folder: Path, limit: int | None) -> None:
        """Own edges and simulated scanners on the target's test subjects."""
        for number, subject, truth in target_scans(folder, "test", self.preprocess, limit):
            self.against_truth(f"own/{subject}", truth)
            for name, source in simulated(truth, number, list(SCANNERS), self.preprocess):
                self.against_truth(f"{name}/{subject}", truth, source)

    def contrasts(self, name: str, paths: dict[str, Path]) -> None:
        """Agreement of co-registered contrasts of one person, pair by pair, on their own grid."""
        results: dict[str, dict[str, np.ndarray]] = {}
        masks = []
        harmonizers = list(self.harmonizers.items())
        wanted = ["source", "histogram matching", *self.harmonizers]
        if all(
            f"{name}/{'-'.join(p)}/{m}" in self.scores
            for p in itertools.combinations(paths, 2)
            for m in wanted
        ):
            return
        for contrast, path in paths.items():
            image = load(path)
            runs: dict[str, Result] = {key: h.run(image) for key, h in harmonizers}
            first = runs["default"]
            brain = np.asarray(first.mask.dataobj) > 0
            masks.append(brain)
            volumes = {
                "source": first.prepared.image,
                "histogram matching": match_histogram(
                    first.prepared.image, first.prepared.mask, np.array(self.target.quantiles)
                ),
                **{key: run.output for key, run in runs.items()},
            }
            restore = self.harmonizers["default"].restore
            for method, volume in volumes.items():
                native = restore(volume, first.prepared, image, brain)
                unit = (native - self.target.lower) / (self.target.upper - self.target.lower)
                results.setdefault(method, {})[contrast] = unit
        common = np.logical_and.reduce(masks)
        for method, volumes in results.items():
            for a, b in itertools.combinations(paths, 2):
                self.keep(
                    f"{name}/{a}-{b}/{method}",
                    {
                        "ssim": ssim(volumes[a], volumes[b], common, 1),
                        "ncc": ncc(volumes[a], volumes[b], common),
                    },
                )
            canonical = {
                contrast: nib.as_closest_canonical(
                    nib.Nifti1Image(np.where(common, volume, 0), image.affine)
                ).get_fdata(dtype=np.float32)
                for contrast, volume in volumes.items()
            }
            save_preview(
                self.previews / f"{name}_{method.replace(' ', '-')}.png",
                canonical,
                (0, 1),
            )

    def tables(self) -> str:
        """Markdown: mean and range over scans."""
        grouped: dict[str, dict[str, list[dict[str, float]]]] = {}
        for key, scores in self.scores.items():
            if key == "model":
                continue
            case, scan, method = key.split("/")
            row = f"{case} {scan}" if "ncc" in scores else case
            grouped.setdefault(row, {}).setdefault(method, []).append(scores)
        lines = ["| scans | n | method | PSNR, dB | SSIM | NCC |", "|---|---|---|---|---|---|"]
        for row, methods in grouped.items():
            for method, scores in methods.items():
                cells = []
                for metric in ("psnr", "ssim", "ncc"):
                    values = [s[metric] for s in scores if metric in s]
                    digits = 1 if metric == "psnr" else 3
                    cells.append(spread(values, digits))
                lines.append(f"| {row} | {len(scores)} | {method} | {' | '.join(cells)} |")
        return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    """Mean and range of some values."""
    if not values:
        return "-"
    shown = f"{np.mean(values):.{digits}f}"
    if len(values) > 1:
        shown += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--model", default="default")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/readme_table.json"))
    parser.add_argument("--previews", type=Path, default=Path("demo/previews"))
    parser.add_argument("--paper", action="store_true", help="paper mode too (30 evaluations)")
    parser.add_argument("--precision", default="float32", help="of paper mode's network")
    parser.add_argument("--subjects", type=int, help="only the first N test subjects")
    options = parser.parse_args()
    bench = Bench(options.model, options.out, options.previews, options.paper, options.precision)
    bench.target_tests(options.data / "target_ds002748", options.subjects)
    kirby = options.data / "contrasts_kirby113"
    bench.contrasts("kirby113", {c: kirby / f"113_{c}.nii.gz" for c in ("T1w", "T2w", "FLAIR")})
    print(bench.tables())


if __name__ == "__main__":
    main()
