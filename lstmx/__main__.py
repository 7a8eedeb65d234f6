"""``python -m lstmx``: the ``lstmx`` command."""

import sys

from lstmx.cli import main

sys.exit(main())
