"""spark-submit jobs/train_trend.py: train the trend model and let it be MLflow's challenger."""

import json

from lakehouse.session import spark_session
from lakehouse.settings import settings
from models.lifecycle import train

if __name__ == "__main__":
    spark = spark_session(settings(), "train-trend")
    version, measured = train(settings(), "trend", spark)
    print(json.dumps({"model": "trend", "version": version, **measured.json()}))
    spark.stop()
