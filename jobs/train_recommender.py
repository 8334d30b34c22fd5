"""spark-submit jobs/train_recommender.py: train the recommender model and let it be MLflow's challenger."""

import json

from lakehouse.session import spark_session
from lakehouse.settings import settings
from models.lifecycle import train

if __name__ == "__main__":
    spark = spark_session(settings(), "train-recommender")
    version, measured = train(settings(), "recommender", spark)
    print(json.dumps({"model": "recommender", "version": version, **measured.json()}))
    spark.stop()
