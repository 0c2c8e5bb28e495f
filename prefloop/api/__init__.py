"""What `import prefloop` offers: every stage as a function, models that read and write text, measures of votes. See `prefloop/__init__.py`."""
