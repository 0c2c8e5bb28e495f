"""prefloop beside TRL: the same models, data, precision, batches and mathematics in one run; see docs/performance.md."""
