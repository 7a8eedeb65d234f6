"""A few cases of the fuzz; CI runs it for two minutes under the sanitizers."""

import fuzz
import pytest

from lstmx.functional import engine as engines


@pytest.mark.skipif(engines.NAME != "tile", reason="compares bits, which the tile engine promises")
@pytest.mark.parametrize("start", [0, 100])
def test_cases_of_the_fuzz(start):
    for case in range(start, start + 100):
        fuzz.run(case)
