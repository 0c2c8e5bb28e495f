"""The book: the site of documentation that `make docs` builds from docs/, the settings and the docstrings."""
