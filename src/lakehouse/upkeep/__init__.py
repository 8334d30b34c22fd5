"""Looking after an installation: maintenance, plans of changes, backups, what has drifted from its contract."""
