"""Settings of every test: the same examples each time, so that a failure is seen again."""

from __future__ import annotations

from hypothesis import settings

# No database and no deadline: a result must depend neither on the last run nor on how busy the machine is.
settings.register_profile("exact", derandomize=True, database=None, deadline=None)
settings.load_profile("exact")
