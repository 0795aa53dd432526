from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fixtures_evaluation import rows
from isochroma.evaluation.report.worst import picture_of, worst_cases
from isochroma.evaluation.study import Case, Scan
from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared


def table(method: str, values: dict[str, float], measure: str, part: str) -> pd.DataFrame:
    named = {(scan, scan): value for scan, value in values.items()}
    return rows(method, named, measure).assign(part=part)


class TestWorstCases:
    def rows(self) -> pd.DataFrame:
        """SSIM ranges over 1.6, with the blur, and edges over 0.2; b loses 0.2 of these."""
        return pd.concat(
            [
                table("N4", {"a": 0.9, "b": 0.1, "c": 0.5}, "ssim", "truth"),
                table("ours", {"a": 0.5, "b": 0.8, "c": 0.6}, "ssim", "truth"),
                table("N4", {"a": 1.0, "b": 1.0}, "edges kept", "anatomy"),
                table("ours", {"a": 0.9, "b": 0.8}, "edges kept", "anatomy"),
                table("blur", {"a": -0.7}, "ssim", "truth"),
                table("N4", {"c": 0.0}, "absolute error", "age"),
                table("ours", {"c": 50.0, "a": 0.0}, "absolute error", "age"),
            ]
        )

    def test_the_largest_loss_in_any_measure_as_a_share_of_its_range_decides(self) -> None:
        worst, second = worst_cases(self.rows(), "ours")  # c loses nothing that counts
        assert (worst.scan, second.scan) == ("b", "a")
        assert [change.measure.name for change in worst.changes] == ["edges kept", "ssim"]
        assert np.allclose([change.loss for change in worst.changes], [1, -0.4375])
        assert np.allclose([change.loss for change in second.changes], [0.5, 0.25])
        assert (second.changes[1].before, second.changes[1].after) == (0.9, 0.5)

    def test_what_the_digits_do_not_show_is_no_loss(self) -> None:
        """Whatever share of the range it is."""
        known = {"N4": 0.5, "ours": 0.4996}
        drawn = [table(name, {"a": value}, "ssim", "truth") for name, value in known.items()]
        assert worst_cases(pd.concat(drawn), "ours") == []

    def test_no_more_than_asked_for(self) -> None:
        assert [case.scan for case in worst_cases(self.rows(), "ours", 1)] == ["b"]

    def test_too_much_lesion_contrast_is_a_loss(self) -> None:
        kept = [
            table("N4", {"a": 0.9, "b": 3.0}, "lesion contrast", "anatomy"),
            table("ours", {"a": 1.6, "b": 1.2}, "lesion contrast", "anatomy"),
        ]
        assert [case.scan for case in worst_cases(pd.concat(kept), "ours")] == ["a"]

    def test_a_lower_error_is_no_loss(self) -> None:
        invented = [
            table("N4", {"a": 0.4, "b": 0.1}, "edges invented", "anatomy"),
            table("ours", {"a": 0.1, "b": 0.3}, "edges invented", "anatomy"),
        ]
        assert [case.scan for case in worst_cases(pd.concat(invented), "ours")] == ["b"]

    def test_without_n4_there_is_nothing_to_lose_against(self) -> None:
        assert worst_cases(table("ours", {"a": 0.5}, "ssim", "truth"), "ours") == []


class TestPicture:
    def case(self, **known: np.ndarray) -> Case:
        image = np.random.default_rng(0).uniform(-1, 1, (40, 50, 30)).astype(np.float32)
        mask = np.zeros(image.shape, bool)
        mask[8:-8, 8:-8, 8:-8] = True
        prepared = Prepared(image, mask, Grid(mask.shape, np.eye(4)), 0.0, 1.0)
        return Case(Scan(Path("scan.nii"), "S", "scan", "person"), prepared, **known)

    def test_rows_are_source_output_and_truth(self) -> None:
        case = self.case()
        output = np.ones(case.prepared.mask.shape, np.float32)
        two = np.asarray(picture_of(case, "ours", output))
        three = np.asarray(picture_of(self.case(truth=-output), "ours", output))
        side = two.shape[1] // 3
        assert two.shape[0] == 2 * side
        assert three.shape[0] == 3 * side
        centres = three[side // 2 :: side, side // 2]
        assert (centres[1:] == [[255] * 3, [0] * 3]).all()  # a white output, a black truth
        assert (three[side : side + 3, -3:] == 0).all()  # black outside the brain

    def test_slices_go_through_the_lesions(self) -> None:
        lesions = np.zeros((40, 50, 30), bool)
        lesions[10:12, 30:32, 12:14] = True
        output = np.where(lesions, 1, -1).astype(np.float32)
        shown = np.asarray(picture_of(self.case(lesions=lesions), "ours", output).convert("L"))
        side = shown.shape[0] // 2
        for column in range(3):
            inner = slice(column * side + side // 4, (column + 1) * side - side // 4)
            assert shown[side + side // 4 :, inner].max() == 255
