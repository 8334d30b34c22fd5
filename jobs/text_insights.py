"""spark-submit --jars <the spark-nlp set> jobs/text_insights.py YYYY-MM-DD: fill gold.text_insights_daily for a day."""

import sys
from datetime import date

from lakehouse.settings import settings
from models.text.daily import text_session, write

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: text_insights.py YYYY-MM-DD")
    spark = text_session(settings())
    print(write(spark, settings(), date.fromisoformat(sys.argv[1])))
    spark.stop()
