"""Handling of generated code: in processes of its own, with limits on time and memory."""
