"""``python -m widescape``."""

import sys

from widescape.cli.main import main

sys.exit(main())
