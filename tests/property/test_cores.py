"""The compiled core and the plain core are the same exchange: their outcomes, events, hashes and tables are equal byte
for byte.
"""

from __future__ import annotations

import pytest

from tests.cores import both, needs_compiled_core


@needs_compiled_core
@pytest.mark.parametrize("seed", range(6))
def test_both_cores_give_the_same_bytes(seed: int) -> None:
    plain, compiled = both("-m", "tests.property.flows", str(seed), "120")
    assert (plain.pop("core"), compiled.pop("core")) == ("plain", "compiled")
    assert plain == compiled
