"""The report of a day: its facts, the page that tells them, the PDF of it, where both are kept, and who serves them."""
