"""spark-submit jobs/score.py MODEL: write what a model's champion says now."""

import json
import sys

from lakehouse.session import spark_session
from lakehouse.settings import settings
from models.scoring import score

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: score.py recommender|anomaly|trend")
    spark = spark_session(settings(), f"score-{sys.argv[1]}")
    print(json.dumps(score(settings(), sys.argv[1], spark)))
    spark.stop()
