# SPDX-License-Identifier: Apache-2.0
"""Running numbers of values over all samples, in however many blocks they come."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from porter.quantize.extremes import Block
from porter.quantize.tally import Tally

#: Of one value in one sample: (least, width), or None where the sample lacks it.
EXTENTS = st.none() | st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(0, 1e6, width=32))


@settings(deadline=None)
@given(st.lists(st.lists(EXTENTS, min_size=3, max_size=3), max_size=12), st.lists(st.integers(0, 12), max_size=3))
def test_the_numbers_are_those_of_every_sample(samples, cuts):
    names = ["a", "b", "c"]
    made, again = Tally(names), Tally(names)
    low = np.array([[np.nan if s is None else s[0] for s in sample] for sample in samples]).reshape(-1, 3).T
    high = np.array([[np.nan if s is None else s[0] + s[1] for s in sample] for sample in samples]).reshape(-1, 3).T
    for part in np.split(np.arange(len(samples)), sorted(min(cut, len(samples)) for cut in cuts)):
        made.add(Block(names, low[:, part], high[:, part]))
        fresh = Tally(names)
        fresh.restore(made.state())
        made = fresh
    again.add(Block(names, low, high))
    for place, name in enumerate(names):
        pairs = [(a, b) for a, b in zip(low[place], high[place], strict=True) if not np.isnan(a)]
        sizes = [max(b, -a) for a, b in pairs]
        assert made.count[place] == len(pairs)
        assert (name in made.seen) == bool(pairs)
        if not pairs:
            assert made.ratios[place] == 1
            continue
        assert made.seen[name] == (min(a for a, _ in pairs), max(b for _, b in pairs))
        assert made.top[place] == max(sizes)
        if max(sizes) > 0:
            assert made.top_at[place] == sizes.index(max(sizes))
            typical = np.exp(np.mean(np.log(np.maximum(sizes, 1e-30))))
            np.testing.assert_allclose(made.ratios[place], max(sizes) / typical, rtol=1e-9)
    np.testing.assert_array_equal(made.ratios, again.ratios)  # to the bit: where blocks end changes nothing
