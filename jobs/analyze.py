"""spark-submit jobs/analyze.py [SQL]: one query over HDFS, MongoDB and Elasticsearch, by default an example."""

import argparse

from lakehouse.query import QueryError, query_spark, to_json
from lakehouse.report import show_rows
from lakehouse.settings import settings
from lakehouse.sources.analysis import EXAMPLE, StoreError
from lakehouse.sources.lake import LakeError

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sql", nargs="?", default=EXAMPLE, metavar="SQL")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--search", action="append", default=[], metavar="INDEX=QUERY",
        help="see of an index only what is found: 'elasticsearch.logs_service=log.level:error AND message:refused'",
    )  # fmt: skip
    given = parser.parse_args()
    searches = dict(search.partition("=")[::2] for search in given.search)
    try:
        answer = query_spark(settings(), given.sql, searches)
    except (QueryError, StoreError, LakeError) as error:
        raise SystemExit(f"error: {error}") from None
    print(to_json(answer).decode()) if given.json else show_rows(answer.columns, answer.rows)
