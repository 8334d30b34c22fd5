"""Alerts over tables and the platform itself: ``lakehouse alerts`` evaluates the rules of ``conf/alerts.yaml``.

``facts.py`` says what is told of rows, ``tables.py`` reads them, ``evaluate.py`` takes the rules over a minute,
``run.py`` does so minute after minute, ``standings.py`` keeps how all stands in MongoDB, ``now.py`` shows it.
"""
