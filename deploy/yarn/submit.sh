#!/bin/sh
# A job on YARN, from a checkout on an edge node after `make setup`: deploy/yarn/submit.sh jobs/stream.py [ARGUMENT...]
# The driver runs here, under whatever watches services; executors get Python and its libraries as an archive, the jars,
# and from the driver the project's code. Executors, shuffles and pools are the profile's (conf/cluster.yaml); a --conf in
# SUBMIT_OPTIONS wins over it. HADOOP_CONF_DIR names the cluster.
#   venv-pack -p .venv -o lakehouse-env.tar.gz      # once, and after each change of requirements.lock
set -eu
cd "$(dirname "$0")/../.."
: "${HADOOP_CONF_DIR:?set it to the folder of core-site.xml and yarn-site.xml}"
export LAKEHOUSE_PROFILE="${LAKEHOUSE_PROFILE:-cluster}" LAKEHOUSE_PROJECT="$PWD"
jars=$(find "${LAKEHOUSE_JARS:-$PWD/.lakehouse/jars}/spark" -name '*.jar' | paste -sd, -)
: "${jars:?no jars: run make setup first}"
SPARK_HOME="${SPARK_HOME:-$(.venv/bin/python -c 'import os, pyspark; print(os.path.dirname(pyspark.__file__))')}"
export SPARK_HOME
job=$1
shift
# shellcheck disable=SC2086  # options, several
exec "$SPARK_HOME/bin/spark-submit" \
  --master yarn --deploy-mode client \
  --queue "${YARN_QUEUE:-default}" \
  --name "lakehouse-$(basename "$job" .py)" \
  --driver-memory "${DRIVER_MEMORY:-8g}" \
  --jars "$jars" \
  --archives "${LAKEHOUSE_ENV:-lakehouse-env.tar.gz}#environment" \
  --conf spark.pyspark.driver.python="${DRIVER_PYTHON:-$PWD/.venv/bin/python}" \
  --conf spark.pyspark.python=./environment/bin/python \
  --conf spark.yarn.maxAppAttempts=1 \
  --conf spark.executor.memoryOverheadFactor=0.4 \
  ${SUBMIT_OPTIONS:-} \
  "$job" "$@"
