"""Which stems are scored together: museval's rules, and what they leave open.

BSS Eval's SIR and SAR depend on which stems are scored at once, and a frame in which any of those
is silent has no score. museval scores all stems of a track at once; where there are estimates of
both vocals and accompaniment, it scores these two by themselves, and the vocals' numbers are those.
It has no numbers for a single stem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

VOCALS = "vocals"
ACCOMPANIMENT = "accompaniment"


class Together(NamedTuple):
    """Stems that are scored at once.

    Attributes:
        stems: All of them.
        told: Those whose scores are given.
    """

    stems: tuple[str, ...]
    told: tuple[str, ...]


def rest_of(stem: str) -> str:
    """Return what the mixture without a stem is called: "accompaniment", or "no_STEM"."""
    return ACCOMPANIMENT if stem == VOCALS else f"no_{stem}"


def pair_stems(given: Sequence[str], wanted: Sequence[str], *, has_rest: bool) -> list[Together]:
    """Work out which stems are scored together.

    Args:
        given: Stems that have both a true one and an estimate of its own.
        wanted: Stems whose scores are asked for; "accompaniment" may be among them without being
            given, and is the mixture less the vocals, then. It changes no other stem's numbers.
        has_rest: Whether there is a true rest of a track, so that a single stem can be scored
            beside it, as museval scores vocals.

    Returns:
        Groups; none has a stem that is not given, but for one's rest.
    """
    stems = [stem for stem in given if stem in wanted]
    pair = (VOCALS, ACCOMPANIMENT)
    is_pair = all(stem in stems for stem in pair)
    others = [stem for stem in stems if not (is_pair and stem == ACCOMPANIMENT)]
    groups = []
    if len(others) > 1:
        told = [stem for stem in others if not (is_pair and stem == VOCALS)]
        groups.append(Together(tuple(others), tuple(told)))
    elif others and not is_pair:
        alone = others[0]
        together = (alone, rest_of(alone)) if has_rest else (alone,)
        groups.append(Together(together, tuple(stem for stem in together if stem in wanted)))
    if is_pair:
        groups.append(Together(pair, pair))
    is_told = any(ACCOMPANIMENT in group.told for group in groups)
    if ACCOMPANIMENT in wanted and not is_told and VOCALS in given and has_rest:
        groups.append(Together(pair, (ACCOMPANIMENT,)))
    return groups
