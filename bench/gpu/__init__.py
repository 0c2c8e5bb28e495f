"""One GPU: are its numbers those of the processor, and how fast are updates, rounds and sampling on it; see `python -m bench.gpu --help`."""
