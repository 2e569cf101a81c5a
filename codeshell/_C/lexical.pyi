"""Measures of code that need its tokens: csrc/text."""
