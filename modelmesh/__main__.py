"""`python -m modelmesh` and the `modelmesh` command: the way in, and nothing else."""

import sys

from modelmesh.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
