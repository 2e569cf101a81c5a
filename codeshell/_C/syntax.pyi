"""Metrics of syntax trees: csrc/syntax."""
