"""Theory that runs: laws take an implementation, jensen's or yours, and return evidence."""

from jensen.check.certificate import Outcome, run, run_all, select
from jensen.check.evidence import Evidence, Report, bounded, close, mean_is, means_are
from jensen.check.law import Law, draws, law

__all__ = [
    "Evidence",
    "Law",
    "Outcome",
    "Report",
    "bounded",
    "close",
    "draws",
    "law",
    "mean_is",
    "means_are",
    "run",
    "run_all",
    "select",
]
