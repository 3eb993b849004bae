"""The page of a run: what was trained, how it went, what it gets wrong, and what it cost."""

from fbp.studies.runs.page import run_report as run_report
