"""The HTML report of a run: one self-contained page, made from the files of the run's directory alone."""

from __future__ import annotations

from codeshell.report.run_page import render, run

__all__ = ["render", "run"]
