"""Scores of separated stems beside the true ones."""

from stemsplit.evaluation.scores import BssEval, bss_eval

__all__ = ["BssEval", "bss_eval"]
