"""What people write and what services complain of: keywords, sentiments, groups of errors, with Spark NLP."""
