"""Boosted trees over columns: csrc/boosting."""
