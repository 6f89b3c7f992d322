"""One file per paper: its claims, what was measured, and the verdicts."""

from widescape.studies.catalog import names, run, summary
from widescape.studies.study import Study, StudyClaim, Verdict, claim, claim_of_count

__all__ = ["Study", "StudyClaim", "Verdict", "claim", "claim_of_count", "names", "run", "summary"]
