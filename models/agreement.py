"""How far two models agree, whichever of them is right: pure, answers in, a number out."""

from __future__ import annotations

from collections.abc import Sequence

PERSISTENCE = 0.9
"""Of rank-biased overlap: the first ten ranks then carry 86 % of the weight (Webber et al. 2010, section 4.3)."""


def overlap(one: Sequence[str], other: Sequence[str], depth: int) -> float:
    """The share of the first ``depth`` that both lists have, of the longer one where both are shorter."""
    one, other = one[:depth], other[:depth]
    return len({*one} & {*other}) / max(len(one), len(other), 1) if one or other else 1.0


def rank_biased_overlap(one: Sequence[str], other: Sequence[str], p: float = PERSISTENCE) -> float:
    """Agreement of two rankings without ties, the top weighing most: 1 the same, 0 nothing in common.

    RBO_ext, which takes what was not seen of the lists for as alike as what was (Webber, Moffat, Zobel: A Similarity
    Measure for Indefinite Rankings, ACM TOIS 28(4), 2010, equation 32); two empty lists agree.
    """
    short, long = sorted((one, other), key=len)
    s, depth = len(short), len(long)
    if not s:
        return float(not depth)
    common = [len({*short[:d]} & {*long[:d]}) for d in range(1, depth + 1)]
    seen = sum(common[d - 1] / d * p**d for d in range(1, depth + 1))
    beyond = sum(common[s - 1] * (d - s) / (s * d) * p**d for d in range(s + 1, depth + 1))
    rest = ((common[-1] - common[s - 1]) / depth + common[s - 1] / s) * p**depth
    return (1 - p) / p * (seen + beyond) + rest


def kappa(both: int, first: int, second: int, cases: int) -> float:
    """Cohen's kappa of two verdicts, agreement beyond that of chance (Educ. Psychol. Meas. 20, 1960).

    Args:
        both: cases where both say yes.
        first: where the first one does.
        second: where the second one does.
        cases: all, at least one.
    """
    agreed = (cases - first - second + 2 * both) / cases
    chance = (first * second + (cases - first) * (cases - second)) / cases**2
    return (agreed - chance) / (1 - chance) if chance < 1 else 1.0
