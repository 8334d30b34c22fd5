"""spark-submit jobs/train_anomaly.py: train the anomaly model and let it be MLflow's challenger."""

import json

from lakehouse.session import spark_session
from lakehouse.settings import settings
from models.lifecycle import train

if __name__ == "__main__":
    spark = spark_session(settings(), "train-anomaly")
    version, measured = train(settings(), "anomaly", spark)
    print(json.dumps({"model": "anomaly", "version": version, **measured.json()}))
    spark.stop()
