"""The rules number identifies the behaviour, as the ABI identifies the schema.

Under one number the same entries give the same outcomes, events, texts of rejects and defaults, for ever. A change of
any of these after a release takes the next number. `tests/golden` has recorded entries of each number with their
outcomes and events; its test fails when the number must change.
"""

from __future__ import annotations

RULES = 3
"""Version 0.1.0 has 1, version 0.2.0 has 2."""
