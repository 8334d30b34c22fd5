"""``lakehouse evaluate WHAT --data PATH``: published data, published metrics, the code that serves the product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.trained import ModelError

BENCHMARKS = ("recommender", "anomaly", "logs", "trend")


def evaluate(what: str, data: Path, out: Path | None = None, split: Path | None = None) -> dict[str, Any]:
    """The published metrics of one benchmark.

    Args:
        what: one of ``BENCHMARKS``.
        data: as it is distributed: MovieLens's file of interactions (RecBole's ``.inter``), or the folder of NAB, of
            loghub, of M4.
        out: a folder for every prediction, as CSV.
        split: of the recommender, a file with the interactions that are the test part.

    Raises:
        ModelError: there is no such benchmark, or the data are not there.
    """
    if what not in BENCHMARKS:
        raise ModelError(f"nothing to evaluate is called {what!r}: there are {', '.join(BENCHMARKS)}")
    for path in filter(None, (data, split)):
        if not path.exists():
            raise ModelError(f"{path} is not there: name the data set with --data")
    if split is not None and what != "recommender":
        raise ModelError(f"--split belongs to the recommender, not to {what}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    if what == "recommender":
        from models.recommender.evaluate import evaluate as recommender

        return recommender(data, out, split)
    if what == "anomaly":
        from models.anomaly.evaluate import evaluate as anomaly

        return anomaly(data, out)
    if what == "logs":
        from models.anomaly.logs import evaluate as logs

        return logs(data, out)
    from models.trend.evaluate import evaluate as trend

    return trend(data, out)
