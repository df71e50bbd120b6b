"""The rules number: it counts behaviour, as the ABI counts the schema.

Under one number the same entries give the same outcomes, events, texts of refusals and defaults, for ever. A change of
any of these after a release takes the next number. `tests/golden` has recorded entries of each number with all that
came of them; its test says when the number must move.
"""

from __future__ import annotations

RULES = 3
"""Version 0.1.0 has 1, version 0.2.0 has 2."""
