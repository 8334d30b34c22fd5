"""spark-submit jobs/rebuild.py TABLE | --store NAME: the batch twin of the stream."""

import sys

from lakehouse.runtime.rebuild import rebuild
from lakehouse.settings import settings

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--store", name]:
            print(rebuild(settings(), store=name))
        case [table]:
            print(rebuild(settings(), table=table))
        case _:
            raise SystemExit("usage: rebuild.py TABLE | --store NAME")
