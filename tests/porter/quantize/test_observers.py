# SPDX-License-Identifier: Apache-2.0
"""Observers: against the whole stream at once, against formulas worked by hand, and against Cambricon's own figures."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.errors import PorterError
from porter.quantize.numerics import qrange
from porter.quantize.observers import (
    KL,
    MSE,
    OBSERVERS,
    MinMax,
    Mix,
    MovingAverage,
    NotFiniteError,
    Percentile,
    make_observer,
)
from porter.quantize.scheme import Scheme
from porter.target import Target

_TARGET = Target.load("mlu270")
_RANGES = {dtype: qrange(dtype) for dtype in ("int8", "int16", "uint8")}


def scheme(**table):
    quantization = replace(
        _TARGET.quantization,
        qmin={dtype: low for dtype, (low, _) in _RANGES.items()},
        qmax={dtype: high for dtype, (_, high) in _RANGES.items()},
        **table,
    )
    return Scheme.of(replace(_TARGET, quantization=quantization))


SYMMETRIC = scheme()
ASYMMETRIC = scheme(scheme="asymmetric")
WAYS = [("int8", SYMMETRIC), ("int16", SYMMETRIC), ("int8", ASYMMETRIC), ("uint8", ASYMMETRIC)]
SPECS = ["min_max", "min_max(use_avg)", "moving_average(0.2)", "percentile(99)", "mse", "kl(256)", "mix"]
STREAM = st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=50), min_size=1, max_size=8)


def observed(observer, samples):
    for sample in samples:
        observer.observe(np.asarray(sample, np.float32))
    return observer


def found(observer, samples, dtype="int8", how=SYMMETRIC):
    return observed(observer, samples).range_for(dtype, how)


def true_error(x, bounds, dtype, how):
    encoding = how.encoding(*bounds, dtype, "")
    return float(((x.astype(np.float64) - encoding.fake(x, "half_even")) ** 2).mean())


def test_min_max_is_the_extremes_of_all_samples():
    observer = observed(MinMax(), [[1, 2], [-5, 0], [3, 3]])
    assert observer.range_for("int8", SYMMETRIC) == (-5, 3)
    assert observer.range_for("uint8", ASYMMETRIC) == (-5, 3)
    assert observer.seen == (-5, 3)


def test_running_average_uses_the_counter_that_was_already_advanced():
    # Measured on torch_mlu's observer: maxima 1, 2, 4 average to 2.0 (the plain mean is 2.33).
    observer = observed(MinMax(use_avg=True), [[1.0], [2.0], [4.0]])
    assert observer.range_for("int8", SYMMETRIC) == (2.0, 2.0)
    assert observer.seen == (1, 4)


def test_only_the_first_iterations_count():
    observer = observed(MinMax(iteration=2), [[1], [-2], [100]])
    assert observer.range_for("int8", SYMMETRIC) == (-2, 1)
    assert observer.seen == (-2, 100)
    assert str(observer) == "min_max(iteration=2)"


def test_moving_average():
    # 1, then 1 + 0.1 * (2 - 1) = 1.1, then 1.1 + 0.1 * (4 - 1.1) = 1.39; minima -1, -1 + 0.1 * 1 = -0.9, -0.81
    low, high = found(MovingAverage(0.1), [[-1, 1], [0, 2], [0, 4]])
    assert (low, high) == (pytest.approx(-0.81), pytest.approx(1.39))
    assert str(make_observer("moving_average")) == "moving_average(0.01)"


@pytest.mark.parametrize("spec", OBSERVERS)
def test_tensors_that_share_a_range_are_one_sample(spec):
    together, apart = make_observer(spec), make_observer(spec)
    assert together.observe(np.array([1, 2], np.float32), np.array([[-3.0]], np.float32)) == [(1, 2), (-3, -3)]
    apart.observe(np.array([1, 2, -3], np.float32))
    assert together.range_for("int8", SYMMETRIC) == apart.range_for("int8", SYMMETRIC)
    assert together.count == apart.count == 1


@pytest.mark.parametrize("spec", OBSERVERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(spec, bad):
    with pytest.raises(NotFiniteError, match="1 of 3"):
        make_observer(spec).observe(np.array([0, bad, 1], np.float32))


@pytest.mark.parametrize("spec", OBSERVERS)
@pytest.mark.parametrize(("dtype", "how"), WAYS)
def test_nothing_zeros_and_constants(spec, dtype, how):
    assert make_observer(spec).range_for(dtype, how) is None
    assert found(make_observer(spec), [[0, 0], [0]], dtype, how) == (0, 0)
    low, high = found(make_observer(spec), [[3.7, 3.7]], dtype, how)
    assert 0 <= low <= high == np.float32(3.7)


# -- percentile ----------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=40)
@given(STREAM, st.floats(60, 100))
def test_percentile_is_within_a_bin_of_the_exact_one(samples, percent):
    values = np.sort(np.abs(np.concatenate([np.asarray(s, np.float32) for s in samples])))
    rank = max(int(np.ceil(percent / 100 * len(values) - 1e-9)) - 1, 0)
    low, high = found(Percentile(percent), samples)
    bound, least = max(high, -low), values[-1] * 2.0**-40 + np.finfo(np.float32).tiny
    assert values[rank] - least <= bound <= values[rank] * (1 + 1 / 128) + least


def test_percentile_ignores_an_outlier_and_keeps_its_precision():
    observer = Percentile(99.9)
    rng = np.random.default_rng(0)
    for _ in range(50):
        observer.observe(rng.uniform(-1, 1, 1000).astype(np.float32))
    observer.observe(np.array([1e6], np.float32))
    assert observer.seen[1] == 1e6
    low, high = observer.range_for("int8", SYMMETRIC)
    assert max(high, -low) == pytest.approx(0.999, rel=0.01)


def test_percentile_of_an_asymmetric_dtype_cuts_both_ends():
    x = np.arange(1000, dtype=np.float32) - 200  # 1 % of each end is 10 values
    low, high = found(Percentile(98), [x], "uint8", ASYMMETRIC)
    assert low == pytest.approx(-190, rel=1 / 128)
    assert high == pytest.approx(789, rel=1 / 128)


# -- mse -----------------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=30)
@given(STREAM, st.sampled_from(WAYS))
def test_mse_is_never_worse_than_the_extremes_by_its_own_measure(samples, way):
    dtype, how = way
    observer = observed(MSE(), samples)
    bounds = observer.range_for(dtype, how)
    assert observer.error(*bounds, dtype, how) <= observer.error(*observer.seen, dtype, how) * (1 + 1e-9)


@pytest.mark.parametrize(("dtype", "how"), WAYS)
def test_mse_finds_the_least_true_error(dtype, how):
    rng = np.random.default_rng(0)
    x = rng.standard_t(3, 200_000).astype(np.float32)
    x[x < 0] *= 0.3
    bounds = found(MSE(), np.array_split(x, 7), dtype, how)
    got = true_error(x, bounds, dtype, how)
    absmax = np.abs(x).max()
    if how.symmetric(dtype):
        tried = [(max(x.min(), -f * absmax), min(x.max(), f * absmax)) for f in np.geomspace(0.003, 1, 300)]
    else:
        grid = np.geomspace(0.02, 1, 25)
        tried = [(f * x.min(), g * x.max()) for f in grid for g in grid]
    best = min(true_error(x, each, dtype, how) for each in tried)
    assert got <= best * 1.01
    assert got <= true_error(x, (x.min(), x.max()), dtype, how)


def test_mse_of_a_power_of_two_scheme_judges_the_step_that_it_gets():
    x = np.full(1000, 1.02, np.float32)
    x[:990] = np.linspace(-0.5, 0.5, 990)
    how = scheme(scale="power_of_two")
    low, high = found(MSE(), [x], "int8", how)
    # 1.02 makes the step 2**-6; only at 0.99 and below is it 2**-7, which cuts ten values and helps 990.
    got, extremes = true_error(x, (low, high), "int8", how), true_error(x, (x.min(), x.max()), "int8", how)
    assert got <= extremes


def test_mse_leaves_an_outlier_out_at_8_bits_and_keeps_it_at_16():
    x = np.append(np.random.default_rng(0).normal(size=100_000), 40).astype(np.float32)
    # One value cut from 40 to T costs (40 - T)**2, the rounding of 100,001 values 100,001 * (T / 127)**2 / 12.
    threshold = 40 / (1 + 100_001 / (12 * 127**2))
    parts = np.array_split(x, 3)  # none so large that only a share would be counted
    assert found(MSE(), parts, "int8")[1] == pytest.approx(threshold, rel=0.02)
    assert found(MSE(), parts, "int16")[1] == pytest.approx(40, rel=0.001)


# -- entropy -------------------------------------------------------------------------------------------------------
def test_entropy_cuts_a_long_tail_and_not_an_even_spread():
    rng = np.random.default_rng(0)
    even = rng.uniform(-1, 1, 100_000).astype(np.float32)
    assert found(KL(), [even])[1] > 0.95
    tail = np.append(rng.normal(size=100_000), [30, -35]).astype(np.float32)
    assert 2 < found(KL(), [tail])[1] < 8
    rectified = np.maximum(tail, 0)
    assert 2 < found(KL(), [rectified])[1] < 8  # the zeros do not decide
    assert found(KL(), [tail], "int16") == (-35, 30)  # more levels than bins


def test_entropy_of_eight_values_by_hand():
    from porter.quantize.observers import _divergence

    counts = np.array([4.0, 2.0, 0.0, 3.0, 1.0, 1.0, 0.0, 1.0])
    # Kept: 4 bins on 2 levels. p = (4, 2, 0, 3 + 3) / 12; q = (3, 3, 0, 3) / 9: an empty bin stays empty.
    p, q = np.array([4, 2, 6]) / 12, np.array([3, 3, 3]) / 9
    assert _divergence(counts, 4, 2) == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-5)
    assert _divergence(counts[:4], 4, 4) == pytest.approx(0, abs=1e-9)


# -- mix -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("dtype", "how"), WAYS)
def test_mix_takes_the_best_of_its_candidates(dtype, how):
    x = np.random.default_rng(0).laplace(size=300_000).astype(np.float32) ** 3
    samples = np.array_split(x, 5)
    mix = observed(Mix(), samples)
    errors = {
        spec: mix.error(*found(make_observer(spec), samples, dtype, how), dtype, how)
        for spec in (
            "min_max",
            "percentile(99.9)",
            "percentile(99.99)",
            "percentile(99.995)",
            "percentile(99.999)",
            "kl",
        )
    }
    best = min(errors, key=errors.get)
    assert mix.error(*mix.range_for(dtype, how), dtype, how) == errors[best]
    assert mix.describe(dtype, how).startswith(f"mix: {best}")


# -- all of them ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", SPECS)
@settings(deadline=None, max_examples=10)
@given(STREAM, STREAM, st.sampled_from(WAYS))
def test_merging_is_seeing_one_stream_after_the_other(spec, first, second, way):
    merged, other, whole = (make_observer(spec) for _ in range(3))
    observed(merged, first).merge(observed(other, second))
    observed(whole, first + second)
    assert merged.seen == whole.seen
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.range_for(*way), whole.range_for(*way), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", [*SPECS, "min_max(iteration=2)"])
@settings(deadline=None, max_examples=10)
@given(STREAM, STREAM)
def test_a_saved_observer_goes_on_as_if_nothing_had_happened(spec, first, second):
    whole, before, after = (make_observer(spec) for _ in range(3))
    after.restore(observed(before, first).state())
    observed(after, second)
    observed(whole, first + second)
    for way in WAYS:
        assert after.range_for(*way) == whole.range_for(*way)
    assert after.seen == whole.seen


@pytest.mark.parametrize("spec", SPECS)
@settings(deadline=None, max_examples=10)
@given(STREAM, st.sampled_from(WAYS))
def test_the_range_lies_within_the_extremes(spec, samples, way):
    observer = observed(make_observer(spec), samples)
    low, high = observer.range_for(*way)
    assert min(observer.seen[0], 0) <= low <= high <= max(observer.seen[1], 0)


def test_merging_with_a_limit_on_samples():
    def of(*samples):
        return observed(MinMax(iteration=3), [[s] for s in samples])

    full = of(1, 2, 3)
    full.merge(of(9))
    assert full.range_for("int8", SYMMETRIC) == (1, 3)
    assert full.seen == (1, 9)
    some = of(1)
    some.merge(of(2, 3))
    assert some.range_for("int8", SYMMETRIC) == (1, 3)
    with pytest.raises(ValueError, match="only 1 count"):
        of(1, 2).merge(of(3, 4))
    with pytest.raises(ValueError, match="cannot be merged"):
        Percentile(99).merge(Percentile(98))


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
        ("moving_average(0)", "averaging_constant is 0"),
        ("kl(100)", "bins is 100"),
        ("mix(3)", "does not take"),
    ]:
        with pytest.raises(PorterError, match=message) as error:
            make_observer(spec)
        assert error.value.code == "PT408"


@pytest.mark.parametrize(
    "spec",
    [
        "min_max", "min_max(iteration=2)", "min_max(iteration=2, use_avg)", "min_max(use_avg)", "percentile(99.9)",
        "moving_average(0.2)", "mse", "kl(512)", "mix",
    ],
)  # fmt: skip
def test_an_observer_is_made_from_what_it_calls_itself(spec):
    assert str(make_observer(spec)) == spec
    assert str(make_observer("percentile")) == "percentile(99.99)"


def test_what_mix_found_is_found_again_when_it_saw_more():
    """The search is kept for a second question, and for no other."""
    rng = np.random.default_rng(0)
    kept = make_observer("mix")
    for factor in (1, 3, 0.1):
        sample = (rng.standard_t(2, 4000) * factor).astype(np.float32)
        kept.observe(sample)
        for name in ("mlu270", "onnxruntime"):
            scheme = Scheme.of(Target.load(name))
            for dtype in ("int8", "int16", "int8"):
                fresh = make_observer("mix")
                fresh.restore(kept.state())
                assert kept.describe(dtype, scheme) == fresh.describe(dtype, scheme)
                assert kept.range_for(dtype, scheme) == fresh.range_for(dtype, scheme)
