"""`python -m rcnn` is `rcnn`."""

from __future__ import annotations

import sys

from rcnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
