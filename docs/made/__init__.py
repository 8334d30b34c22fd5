"""What of the docs is made from the code when they are built; :mod:`docs.made.hook` is MkDocs' way in."""
