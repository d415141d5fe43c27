"""One self-contained HTML page about a buffer and the run that filled it; `page` lists what goes into it.

Enters: a buffer, and where there was a run its history. Leaves: an HTML file that asks for nothing from elsewhere, and
the charts as PNG files where these are wanted. Charts are drawn by matplotlib (the extra `report`).
"""

from trl_pper.report.content import buffer_facts
from trl_pper.report.history import Evaluation, History, history_of
from trl_pper.report.page import write_report
from trl_pper.report.run import Run, find_run

__all__ = ["Evaluation", "History", "Run", "buffer_facts", "find_run", "history_of", "write_report"]
