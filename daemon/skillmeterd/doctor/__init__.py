"""Doctor: looks at everything that has to be right, and says of what is not what to do.

A module here is a group of checks: a function that yields findings. None changes or starts anything, or waits long, and
each works without a daemon, beside another user's, and with broken settings. What cannot be looked at is a finding.
"""

from .examination import examine
from .finding import Finding, State, worst
from .patient import Patient, admit
from .reconcile import compare, finding_of

__all__ = ["Finding", "Patient", "State", "admit", "compare", "examine", "finding_of", "worst"]
