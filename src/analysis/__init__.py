"""Figures of results, comparisons, and what git and dvc.lock say."""
