"""What the study of audits says follows from what was measured, and shows what it must."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def audits(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import audits

    return audits


def test_the_tables_of_the_audits_follow_from_what_was_measured(audits):
    text = (audits.PLACE / "README.md").read_text()
    frame = audits.kept("audit")
    found = [*zip(frame["level"], frame["run"], frame["seed"], strict=True)]
    assert len(found) == len({*found}) and {*found} == {*audits.cells(range(5))}
    assert audits.filled(text) == text
    assert [name for _, name, _, _ in audits.BLOCK.findall(text)] == ["client", "record", "lira"]


def test_no_true_promise_was_caught_and_every_broken_one_was_in_every_seed(audits):
    frame = audits.kept("audit")
    kinds = frame["run"].map(lambda run: audits.CELLS[run].kind)
    assert not frame["caught"][kinds == audits.SOUND].any()
    assert frame["caught"][kinds == audits.BROKEN].all()
    assert (kinds == audits.BROKEN).sum() == 10


def test_the_less_noise_the_more_is_shown(audits):
    frame = audits.kept("audit")
    shown = [
        frame["lower"][frame["run"] == f"central, noise {noise}"].median() for noise in (0.5, 1, 2)
    ]
    assert sorted(shown, reverse=True) == shown and shown[-1] > 0


def test_members_are_found_less_often_the_smaller_epsilon_is(audits):
    frame = audits.kept("lira")
    means = frame.groupby("training", sort=False)[["tpr", "auc"]].mean()
    assert list(means.index) == [*audits.trainings()]
    assert (np.diff(means["auc"]) < 0).all()
    assert means["tpr"].iloc[0] > 5 * means["tpr"].iloc[-1]


def test_the_curves_that_are_kept_give_the_rates_in_the_table(audits):
    frame = audits.kept("lira")
    with np.load(audits.PLACE / "curves.npz", allow_pickle=False) as found:
        one_alarm = found["hits"][:, :, audits.ALARMS.index(1)]
        names = [*map(str, found["trainings"])]
    assert [*frame["training"].unique()] == names
    rates = frame["tpr"].to_numpy().reshape(one_alarm.shape)
    assert rates == pytest.approx(one_alarm / (audits.POOL // 2), abs=1e-9)
