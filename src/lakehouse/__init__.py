"""A lakehouse on Kafka, Spark, Delta Lake on HDFS, MongoDB, Redis and Elasticsearch."""
