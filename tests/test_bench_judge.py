"""The bench of the judge: its arithmetic by hand, the sheets and what is read back from them."""

import csv

import numpy as np
import pytest
from PIL import Image

from accord.judges.calibrate import calibration_error, reliability
from accord.types import InputError
from accord_lab.bench.judge import (
    COLUMNS,
    Judge,
    Plan,
    Shot,
    auc,
    auc_overall,
    auc_within,
    cross_calibrated,
    false_fails,
    false_passes,
    held_out_prompts,
    look,
    measured,
    page,
    plot,
    read_eyes,
    write_sheets,
)
from accord_lab.bench.prompts import CATEGORIES, scenebench

# two prompts of four pictures: (right, passes, score)
ROWS = np.array(
    [
        [[1, 1, 0.9], [1, 0, 0.6], [0, 1, 0.8], [0, 0, 0.1]],
        [[1, 1, 0.3], [0, 0, 0.3], [0, 0, 0.2], [0, 0, 0.1]],
    ]
)


def test_false_passes_and_fails_by_hand():
    assert false_passes(ROWS) == pytest.approx(1 / 3)  # of three that pass, one is wrong
    assert false_fails(ROWS) == pytest.approx(1 / 3)  # of three right ones, one does not pass
    assert false_passes(ROWS[:, 3:]) == 0 and false_fails(ROWS[:, 3:]) == 0  # nothing passes, nothing is right


def test_areas_by_hand():
    assert auc(np.array([1, 0]), np.array([2.0, 1.0])) == 1 and auc(np.array([1, 0]), np.array([1.0, 2.0])) == 0
    assert auc(np.array([1, 0]), np.array([1.0, 1.0])) == 0.5
    # of the first prompt 3 of 4 pairs are in order, of the second two and a half of 3
    assert auc_within(ROWS)["auc_within"] == pytest.approx((3 / 4 + 2.5 / 3) / 2, abs=1e-4)
    assert auc_within(ROWS[:, :1]) == {"auc_within": None, "auc_within_ci95": None}  # no prompt has both
    right, score = ROWS[..., 0].ravel(), ROWS[..., 2].ravel()
    pairs = [(a > b) + (a == b) / 2 for a in score[right > 0] for b in score[right == 0]]
    assert auc_overall(ROWS) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(np.array([1, 1]), np.array([1.0, 2.0])))


def test_reliability_by_hand():
    said, right = [0.05, 0.05, 0.95, 1.0], [0, 1, 1, 1]
    low, high = reliability(said, right)
    assert low == {"count": 2, "said": pytest.approx(0.05), "right": 0.5}
    assert high == {"count": 2, "said": pytest.approx(0.975), "right": 1.0}
    assert calibration_error(said, right) == pytest.approx((0.45 + 0.025) / 2)


def test_calibration_is_fitted_on_the_other_prompts():
    rng = np.random.default_rng(0)
    number = np.repeat(np.arange(40), 10)
    truth = rng.uniform(0.05, 0.95, 400)
    right = rng.random(400) < truth
    sure = truth**3 / (truth**3 + (1 - truth) ** 3)  # too sure of itself
    found = cross_calibrated(sure, right, number)
    assert calibration_error(found, right) < calibration_error(sure, right) / 2
    other = right.copy()
    other[number == 0] = ~right[number == 0]
    again = cross_calibrated(sure, other, number)
    assert np.array_equal(found[number % 2 == 0], again[number % 2 == 0])  # its own labels change nothing
    assert not np.array_equal(found[number % 2 == 1], again[number % 2 == 1])


def pictures() -> list[dict]:
    """Eight prompts of four pictures, what two captioners say of them, and whether they are right."""
    rows = []
    for n in range(8):
        noun = ("star", "key", "egg", "fish")[n % 4]
        for s in range(4):
            said = [
                {
                    "caption": f"a red {noun}" if s < 2 else f"two red {noun}s",
                    "weakest": 0.95 - 0.2 * s,
                    "overall": 0.9,
                },
                {"caption": f"a red {noun}" if s < 1 else f"a blue {noun}", "weakest": 0.95, "overall": 0.9},
            ]
            rows.append(
                {
                    "number": n,
                    "seed": s,
                    "prompt": f"a red {noun}",
                    "category": "color",
                    "right": s == 0 or (s == 1 and n < 2),
                    "said": said,
                }
            )
    return rows


def test_what_is_measured_of_each_judge():
    found = measured(pictures())
    rows = {r["judge"]: r for r in found["rows"]}
    assert rows["likelihood (weakest word)"]["passes"] == 0.25 and rows["caption"]["passes"] == 0.5
    assert rows["caption"]["false_passes"] == pytest.approx(6 / 16) and rows["caption"]["false_fails"] == 0
    assert rows["both"]["passes"] == 0.25 and rows["both"]["false_passes"] == 0
    assert rows["two captioners"]["passes"] == 0.25 and rows["two captioners"]["auc_within"] == 1
    assert rows["both"]["best_of"] == {"1": 0.3125, "2": pytest.approx((2 * 5 / 6 + 6 / 2) / 8, abs=1e-4), "4": 1.0}
    data = {"prompts": 8, "seeds": 4, **found, "eye": None}
    assert "two captioners" in page(data) and "blind" not in page(data)
    assert plot(data).startswith(b"\x89PNG")


def test_sheets_hold_no_verdict_and_are_read_back(tmp_path):
    prompts = [p for p in scenebench()[:8]]
    shown = [(Shot(n, p, s), Image.new("RGB", (64, 64))) for n, p in enumerate(prompts) for s in range(4)]
    assert write_sheets(tmp_path, shown, "eye.csv") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eye.csv", "sheet-01.png", "sheet-02.png"]
    rows = list(csv.DictReader((tmp_path / "eye.csv").open(encoding="utf8")))
    assert tuple(rows[0]) == COLUMNS and all(r["right"] == "" for r in rows)
    assert [int(r["picture"]) for r in rows] == list(range(1, 33)) and {r["sheet"] for r in rows} == {"1", "2"}
    assert [int(r["number"]) for r in rows] != sorted(int(r["number"]) for r in rows)  # shuffled
    with pytest.raises(InputError, match="not filled in"):
        read_eyes(tmp_path / "eye.csv")


def test_the_eye_against_the_reader_and_the_judges(tmp_path):
    rows = pictures()
    path = tmp_path / "eye.csv"
    lines = [",".join(COLUMNS)]
    # the eye finds the first picture of each prompt right, and does not look at the fourth ones
    lines += [
        f"{k},1,{r['number']},{r['seed']},{r['prompt']},{'' if r['seed'] == 3 else int(r['seed'] == 0)}"
        for k, r in enumerate(rows)
    ]
    path.write_text("\n".join(lines))
    found = look(rows, read_eyes(path))
    assert found["pictures"] == 24 and found["right"] == pytest.approx(1 / 3, abs=1e-4)
    by_name = {r["verdict"]: r for r in found["rows"]}
    assert [by_name["reader"][k] for k in ("both_right", "eye_alone", "verdict_alone", "both_wrong")] == [8, 0, 2, 14]
    assert by_name["both"]["agree"] == 1
    assert by_name["reader"]["false_passes"] == 0.2 and by_name["both"]["false_passes"] == 0
    low, high = by_name["reader"]["false_passes_ci95"]
    assert low < 0.2 < high
    with pytest.raises(InputError, match="other pictures"):
        look(rows[:8], read_eyes(path))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", f"{','.join(COLUMNS)}\n1,1,x,0,a star,1\n"])
def test_a_table_of_another_kind_is_refused(tmp_path, text):
    path = tmp_path / "eye.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"eye\.csv"):
        read_eyes(path)


def test_a_word_in_place_of_a_verdict_is_refused(tmp_path):
    path = tmp_path / "eye.csv"
    path.write_text(f"{','.join(COLUMNS)}\n1,1,0,0,a star,yes\n")
    with pytest.raises(InputError, match="line 2 of"):
        read_eyes(path)


def test_prompts_are_of_all_categories_and_none_of_scenebench():
    whole, few = held_out_prompts(6), held_out_prompts(2)
    assert len(whole) == 48 and len(few) == 16 and {p.category for p in few.values()} == set(CATEGORIES)
    assert few.items() <= whole.items()
    assert not {p.text for p in whole.values()} & {p.text for p in scenebench()}


def test_more_prompts_and_seeds_leave_the_batches_as_they_are(tmp_path):
    few, whole = (Judge(out=tmp_path, plan=p, progress=False).cells() for p in (Plan(2, 3), Plan(6, 4)))
    assert all(len(cell) == 16 for cell in whole) and len(whole) == 12 and len(few) == 3
    assert all(cell in whole for cell in few)


@pytest.mark.slow
def test_a_whole_small_bench_is_kept_and_goes_on(tmp_path):
    plan = Plan(2, 2)
    data, text = Judge(out=tmp_path, plan=plan, progress=False).run()
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / ".cache").rglob("*.*")}
    assert data["pictures"] == 32 and "The strict pass by category" in text
    Judge(out=tmp_path, plan=plan, progress=False, sheets=tmp_path / "sheets").run()
    assert Judge(out=tmp_path, plan=plan, progress=False).run()[0] == data
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / ".cache").rglob("*.*")} == made
