"""Confidence, against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mm_runtime.confidence import calibrate, iou, presence, region_mass, softmax, token_mass


def test_presence_leaves_the_other_tokens_out() -> None:
    logits = np.array([100.0, 2.0, 0.0, -np.inf], np.float32)
    assert presence(logits, 1, [2, 3]) == pytest.approx(1 / (1 + np.exp(-2)))
    assert presence(logits, 1, [3]) == 1.0


def test_region_mass_adds_up_the_cells_that_agree() -> None:
    box = [0.1, 0.1, 0.5, 0.5]
    boxes = np.array([box, [0.11, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9], box], np.float32)
    scores = np.log(np.array([0.4, 0.2, 0.3, 0.1], np.float32))
    best, mass = region_mass(scores, boxes)
    assert (best, mass) == (0, pytest.approx(0.7))


def test_an_empty_box_still_agrees_with_itself() -> None:
    boxes = np.array([[0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1]], np.float32)
    assert region_mass(np.array([0.0, -50.0]), boxes) == (0, pytest.approx(1.0))


def test_token_mass_is_the_geometric_mean() -> None:
    assert token_mass([0.5, 0.5, 0.5, 0.5]) == pytest.approx(0.5)
    assert token_mass([1.0, 0.25]) == pytest.approx(0.5)


@given(st.floats(0, 1), st.floats(0.1, 10))
def test_calibration_keeps_the_range_and_the_side(raw: float, temperature: float) -> None:
    out = calibrate(raw, temperature)
    assert 0 <= out <= 1
    assert (out > 0.5) == (min(max(raw, 1e-6), 1 - 1e-6) > 0.5) or out == pytest.approx(0.5)
    assert calibrate(raw, None) == raw
    assert calibrate(raw, 1.0) == pytest.approx(raw, abs=1e-5)


def test_iou_by_hand() -> None:
    box = np.array([0, 0, 2, 2], np.float32)
    others = np.array([[1, 1, 3, 3], [5, 5, 6, 6], [0, 0, 2, 1], [0, 0, 2, 2]], np.float32)
    np.testing.assert_allclose(iou(box, others), [1 / 7, 0, 0.5, 1])


def test_softmax_of_a_masked_row() -> None:
    np.testing.assert_allclose(softmax(np.array([1e4, -np.inf, 1e4])), [0.5, 0, 0.5])
