"""`python -m trl_pper.cli`."""

import sys

from trl_pper.cli.commands import main

sys.exit(main())
