"""Readers of intermediate representations and machine code: text in, facts out; nothing is imported or run."""
