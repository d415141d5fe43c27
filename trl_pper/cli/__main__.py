"""Run the command as `python -m trl_pper.cli`, as launchers do."""

import sys

from trl_pper.cli.commands import main

sys.exit(main())
