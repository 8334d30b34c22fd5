"""spark-submit jobs/stream.py: the long-running stream, Kafka -> bronze, silver, gold -> stores."""

import logging
import os
import sys

from lakehouse import logs
from lakehouse.runtime.supervise import run
from lakehouse.settings import settings

if __name__ == "__main__":
    logs.configure(settings().log_format)
    code = run(settings(), until_drained="--once" in sys.argv[1:])
    logging.shutdown()
    # The JVM's threads and callbacks end with the process; an orderly interpreter exit would wait for them.
    os._exit(code)
