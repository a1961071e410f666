"""Confidence, against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mm_runtime.confidence import calibrate, iou, presence, region_place, softmax, token_mass


def test_presence_leaves_the_other_tokens_out() -> None:
    logits = np.array([100.0, 2.0, 0.0, -np.inf], np.float32)
    assert presence(logits, 1, [2, 3]) == pytest.approx(1 / (1 + np.exp(-2)))
    assert presence(logits, 1, [3]) == 1.0


def test_agreeing_cells_say_the_place_together() -> None:
    first, near, far = [0.1, 0.1, 0.5, 0.5, 0.3, 0.3], [0.2, 0.1, 0.5, 0.5, 0.4, 0.3], [0.6] * 6
    places = np.array([first, near, far], np.float32)
    place, mass = region_place(np.log(np.array([0.45, 0.15, 0.4], np.float32)), places)
    assert mass == pytest.approx(0.6)
    np.testing.assert_allclose(place, 0.75 * np.array(first) + 0.25 * np.array(near), atol=1e-6)


def test_an_empty_box_still_agrees_with_itself() -> None:
    places = np.array([[0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1, 0.5, 0.5]], np.float32)
    place, mass = region_place(np.array([0.0, -50.0]), places)
    np.testing.assert_allclose(place, places[0])
    assert mass == pytest.approx(1.0)


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
