"""Scores of separated stems beside the true ones.

bss_eval(references, estimates)                      # SDR, ISR, SIR, SAR in frames: (S, N) each
usdr(reference, estimate)                            # one number for a whole track
score_dataset(dataset, ModelEstimates(separator))    # every track of a data set
"""

from stemsplit.evaluation.estimates import EstimateSource, FolderEstimates, ModelEstimates
from stemsplit.evaluation.places import Places
from stemsplit.evaluation.results import StemScores, TrackScores
from stemsplit.evaluation.run import TrackOutcome, TrackProgress, score_dataset
from stemsplit.evaluation.scores import BssEval, bss_eval
from stemsplit.evaluation.summary import StemSummary, summarise
from stemsplit.evaluation.tracks import ScoreOptions, score_track
from stemsplit.evaluation.whole_track import si_sdr, usdr

__all__ = [
    "BssEval",
    "EstimateSource",
    "FolderEstimates",
    "ModelEstimates",
    "Places",
    "ScoreOptions",
    "StemScores",
    "StemSummary",
    "TrackOutcome",
    "TrackProgress",
    "TrackScores",
    "bss_eval",
    "score_dataset",
    "score_track",
    "si_sdr",
    "summarise",
    "usdr",
]
