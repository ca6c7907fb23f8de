"""One track: estimates beside true stems, in frames and as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stemsplit.errors import AudioError, UsageError
from stemsplit.evaluation.estimates import derive_rest
from stemsplit.evaluation.pairing import ACCOMPANIMENT, VOCALS, Together, pair_stems
from stemsplit.evaluation.references import References
from stemsplit.evaluation.results import FRAME_MEASURES, StemScores, tidy
from stemsplit.evaluation.scores import bss_eval
from stemsplit.evaluation.whole_track import si_sdr, usdr


@dataclass(frozen=True)
class ScoreOptions:
    """What is measured.

    Attributes:
        stems: Whose scores are wanted; None for all that there are, and accompaniment.
        window_s: Length of a frame.
        hop_s: From one frame to the next.
        si_sdr: Whether SI-SDR is measured, too.
    """

    stems: tuple[str, ...] | None = None
    window_s: float = 1.0
    hop_s: float = 1.0
    si_sdr: bool = False

    def __post_init__(self) -> None:
        for name, value in (("window", self.window_s), ("hop", self.hop_s)):
            if not 0.001 <= value < 1e6:
                raise UsageError(
                    f"a {name} of {value} s is not possible", help="give seconds, such as 1."
                )


def list_targets(stems: Sequence[str]) -> tuple[str, ...]:
    """Return what can be scored of a data set: its stems, and accompaniment where there are vocals.

    Args:
        stems: The data set's.
    """
    if VOCALS in stems and ACCOMPANIMENT not in stems:
        return (*stems, ACCOMPANIMENT)
    return tuple(stems)


def score_track(
    references: References,
    estimates: Mapping[str, Tensor],
    options: ScoreOptions,
    *,
    check: Callable[[], None] = lambda: None,
    notes: list[str] | None = None,
) -> tuple[StemScores, ...]:
    """Score a track's estimates.

    Which stems are scored together is museval's rule, see `pair_stems`; a rest that has no estimate
    of its own is the mixture less its stem.

    Args:
        references: Its true stems.
        estimates: By stem. Shape of each: (C, T), as the references.
        options: What is measured.
        check: Called between stems; may raise to stop.
        notes: Gets a line for each thing a person should know.

    Returns:
        In the order of the data set's stems; accompaniment last.

    Raises:
        AudioError: No estimate has a true stem, or samples are not finite.
    """
    targets = list_targets(tuple(references.stems))
    if ACCOMPANIMENT in targets and not references.has_rest:
        targets = tuple(references.stems)
    wanted = targets if options.stems is None else options.stems
    given = [stem for stem in targets if stem in estimates]
    groups = pair_stems(given, wanted, has_rest=references.has_rest)
    if not groups:
        raise AudioError(
            f"of {', '.join(estimates) or 'nothing'} none is a stem of this track that was "
            f"asked for: {', '.join(wanted)}",
            help="name stems and estimates alike.",
        )
    found: dict[str, StemScores] = {}
    told: list[str] = []
    for group in groups:
        check()
        for scores in _score_together(group, references, estimates, options, check, told):
            found[scores.stem] = scores
    if notes is not None:
        notes.extend(dict.fromkeys(told))
    order = [*targets, *(stem for stem in found if stem not in targets)]
    return tuple(found[stem] for stem in order if stem in found)


def _score_together(
    group: Together,
    references: References,
    estimates: Mapping[str, Tensor],
    options: ScoreOptions,
    check: Callable[[], None],
    notes: list[str],
) -> list[StemScores]:
    true = {stem: references.find(stem) for stem in group.stems}
    heard = {
        stem: estimates[stem] if stem in estimates else derive_rest(stem, references, estimates)
        for stem in group.stems
    }
    for stem, samples in heard.items():
        if not bool(torch.isfinite(samples).all()):
            raise AudioError(
                f"the estimate of {stem} holds values that are not numbers (NaN or infinite)",
                help="look at what made it.",
            )
    # museval refuses a track with a stem that is silent throughout. Nothing is projected on such a
    # one, so the others' numbers are those without it.
    sounding = [stem for stem in group.stems if not _is_silent(true[stem])]
    for stem in group.stems:
        if stem not in sounding:
            notes.append(f"{stem} is silent throughout: it has no SDR, and the others are scored")
        elif _is_silent(heard[stem]):
            notes.append(f"the estimate of {stem} is silent: no frame has a score")
    frames = _score_frames(sounding, true, heard, options, references.sample_rate)
    scores = []
    for stem in group.told:
        check()
        whole = {"uSDR": tidy(usdr(true[stem], heard[stem]))}
        if options.si_sdr:
            whole["SI-SDR"] = tidy(si_sdr(true[stem], heard[stem]))
        none = dict.fromkeys(FRAME_MEASURES, ())
        scores.append(StemScores(stem, frames.get(stem, none), whole, tuple(sounding)))
    return scores


def _score_frames(
    stems: Sequence[str],
    true: Mapping[str, Tensor],
    heard: Mapping[str, Tensor],
    options: ScoreOptions,
    sample_rate: int,
) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return numbers by stem and measure, one for each frame."""
    if not stems:
        return {}
    kinds = bss_eval(
        [true[stem] for stem in stems],
        [heard[stem] for stem in stems],
        window=max(1, int(options.window_s * sample_rate)),
        hop=max(1, int(options.hop_s * sample_rate)),
    )
    by_measure = dict(
        zip(FRAME_MEASURES, (kinds.sdr, kinds.isr, kinds.sir, kinds.sar), strict=True)
    )
    return {
        stem: {
            measure: tuple(tidy(value) for value in kind[row].tolist())
            for measure, kind in by_measure.items()
        }
        for row, stem in enumerate(stems)
    }


def _is_silent(samples: Tensor) -> bool:
    """Say whether the channels' sum is zero throughout, which is museval's silence."""
    return not bool(samples.sum(dim=0).any())
