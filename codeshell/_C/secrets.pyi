"""Secrets, personal data and overlap with evaluation sets: csrc/text."""
