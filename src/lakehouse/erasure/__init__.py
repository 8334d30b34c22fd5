"""Taking a person out of everything that is kept, and keeping them out: see docs/decisions/0018-erasure.md."""
