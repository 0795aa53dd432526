"""A BIDS data set of the project's real scans: python benchmarks/make_bids_study.py --data DIR OUT.

14 scans of 7 people at 4 sites: one person each in T1w, T2w and FLAIR (Kirby 21) and in T1w with
and without gadolinium, T2w and FLAIR (multiple sclerosis), two people scanned twice (OASIS), and
three whole heads (ds000011). None was used for training.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from held_out import participants

RESCANS = {"1003": "1023", "1018": "1038"}  # of OASIS: the same person's two sessions
MISSING = "n/a"
README = """# A multi-site study

Scans of Kirby 21 (Landman 2011), of a data set of multiple sclerosis (Lesjak 2017, CC BY), of
OASIS-1 (CC BY-NC) and of OpenfMRI ds000011 (PDDL), arranged by `benchmarks/make_bids_study.py`.
"""


def people(data: Path) -> list[dict[str, Any]]:
    """List the people of the study: label, site, age, sex, and files by their name in BIDS."""
    kirby, sclerosis = data / "contrasts_kirby113", data / "contrasts_ms07"
    contrasts = ("T1w", "T2w", "FLAIR")
    found: list[dict[str, Any]] = [
        {
            "label": "kirby113",
            "site": "kirby21",
            "files": {name: kirby / f"113_{name}.nii.gz" for name in contrasts},
        },
        {
            "label": "ms07",
            "site": "ms",
            "files": {
                **{name: sclerosis / f"ms07_{name}.nii.gz" for name in contrasts},
                "ce-gadolinium_T1w": sclerosis / "ms07_T1wpost.nii.gz",
            },
        },
    ]
    folder = data / "source_oasis1"
    rows = {row["scan_id"]: row for row in participants(folder)}
    for first, second in RESCANS.items():
        sessions = {"ses-1_T1w": first, "ses-2_T1w": second}
        files = {name: folder / f"{scan}_T1w.nii.gz" for name, scan in sessions.items()}
        about = {"age": rows[first]["age"], "sex": rows[first]["sex"]}
        found.append({"label": f"oasis{first}", "site": "oasis1", "files": files, **about})
    folder = data / "source_ds000011"
    for row in participants(folder):
        person = row["participant_id"]
        files = {"T1w": folder / f"{person}_T1w.nii.gz"}
        about = {"age": row["age"], "sex": row["sex"]}
        label = person.replace("sub-", "ds000011s")
        found.append({"label": label, "site": "ds000011", "files": files, **about})
    return found


def main() -> None:
    """Write the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("out", type=Path, help="folder for the study")
    options = parser.parse_args()
    out, rows, scans = options.out, [], 0
    for person in people(options.data):
        label = f"sub-{person['label']}"
        rows.append((label, *(person.get(key, MISSING) for key in ("site", "age", "sex"))))
        for name, path in person["files"].items():
            session = name.split("_")[0] if name.startswith("ses-") else ""
            folder = out / label / session / "anat"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / f"{label}_{name}.nii.gz")
            scans += 1
    header = ("participant_id", "site", "age", "sex")
    lines = ["\t".join(map(str, row)) for row in (header, *rows)]
    (out / "participants.tsv").write_text("\n".join(lines) + "\n")
    (out / "README.md").write_text(README)
    description = {"Name": "Multi-site study", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (out / "dataset_description.json").write_text(json.dumps(description, indent=2) + "\n")
    print(f"{out}: {scans} scans of {len(rows)} people")


if __name__ == "__main__":
    main()
