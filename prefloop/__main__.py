"""`python -m prefloop` is `prefloop`; torchrun starts it this way."""

import sys

from prefloop.cli import main

if __name__ == "__main__":
    sys.exit(main())
