# SPDX-License-Identifier: Apache-2.0
"""Observers: against the whole stream at once, and against Cambricon's own figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.errors import PorterError
from porter.quantize.observers import MinMax, NotFiniteError, Percentile, make_observer


def observed(observer, samples):
    for sample in samples:
        observer.observe(np.asarray(sample, np.float32))
    return observer


def test_min_max_is_the_extremes_of_all_samples():
    observer = observed(MinMax(), [[1, 2], [-5, 0], [3, 3]])
    assert observer.range == (-5, 3)
    assert observer.seen == (-5, 3)
    assert MinMax().range is None


def test_running_average_uses_the_counter_that_was_already_advanced():
    # Measured on torch_mlu's observer: maxima 1, 2, 4 average to 2.0 (the plain mean is 2.33).
    observer = observed(MinMax(use_avg=True), [[1.0], [2.0], [4.0]])
    assert observer.range == (2.0, 2.0)
    assert observer.seen == (1, 4)


def test_only_the_first_iterations_count():
    observer = observed(MinMax(iteration=2), [[1], [-2], [100]])
    assert observer.range == (-2, 1)
    assert observer.seen == (-2, 100)
    assert str(observer) == "min_max(iteration=2)"


@pytest.mark.parametrize("name", ["min_max", "percentile"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(name, bad):
    with pytest.raises(NotFiniteError, match="1 of 3"):
        make_observer(name).observe(np.array([0, bad, 1], np.float32))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=50), min_size=1, max_size=8),
    st.floats(60, 100),
)
def test_percentile_is_within_a_bin_of_the_exact_one(samples, percent):
    observer = observed(Percentile(percent), samples)
    values = np.sort(np.abs(np.concatenate([np.asarray(s, np.float32) for s in samples])))
    rank = max(int(np.ceil(percent / 100 * len(values) - 1e-9)) - 1, 0)
    low, high = observer.range
    bound = max(high, -low)
    width = 2 * values[-1] / 8192 * (1 + 1e-6)
    assert values[rank] - 1e-30 <= bound <= values[rank] + width


def test_percentile_ignores_an_outlier_and_its_state_stays_small():
    observer = Percentile(99.9)
    rng = np.random.default_rng(0)
    for _ in range(50):
        observer.observe(rng.uniform(-1, 1, 1000).astype(np.float32))
    observer.observe(np.array([1e6], np.float32))
    assert observer.seen[1] == 1e6
    # The histogram had to widen to 2**20 over 8192 bins: the answer is one of those bins.
    assert observer.range[1] == pytest.approx(128, abs=1)
    assert observer._histogram.counts.size == 8192
    assert observer._histogram.counts.sum() == 50_001


def test_percentile_of_zeros():
    assert observed(Percentile(), [[0, 0], [0]]).range == (0, 0)


def test_unknown_observers_and_settings_are_named():
    with pytest.raises(PorterError, match="min_max") as error:
        make_observer("minmax")
    assert error.value.code == "PT408"
    for spec, message in [
        ("percentile(iteration=3)", "does not take"),
        ("percentile(1, 2)", "does not take"),
        ("percentile(percentile=3)", "percentile is 3"),
        ("percentile(high)", "does not take"),
        ("percentile(percentile=high)", "'high' is no number"),
        ("min_max(iteration=0)", "iteration is 0"),
        ("min_max(iteration=1.5)", "iteration is 1.5"),
        ("min_max(", "no observer 'min_max\\('"),
    ]:
        with pytest.raises(PorterError, match=message) as error:
            make_observer(spec)
        assert error.value.code == "PT408"


@pytest.mark.parametrize(
    "spec", ["min_max", "min_max(iteration=2)", "min_max(iteration=2, use_avg)", "min_max(use_avg)", "percentile(99.9)"]
)
def test_an_observer_is_made_from_what_it_calls_itself(spec):
    assert str(make_observer(spec)) == spec
    assert str(make_observer("percentile")) == "percentile(99.99)"
