"""The champions' answers without Spark or MLflow; the same code scores while a model is evaluated."""

from lakehouse.predict.published import CURRENT, Champion, PredictError, current, prepare, publish, read, switch
from lakehouse.predict.recommend import Neighbours

__all__ = [
    "CURRENT", "Champion", "Neighbours", "PredictError", "current", "prepare", "publish", "read", "switch",
]  # fmt: skip
