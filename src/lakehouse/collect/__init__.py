"""Logs and metrics from where they arise: a Logstash pipeline file, run here as Logstash runs it.

``config`` reads the file, ``filters`` and ``conditions`` compile it, ``inputs`` and ``codecs`` bring events, ``queue``
keeps them on disk until every one of the ``outputs`` has acknowledged them, ``pipeline`` holds it together.
"""
