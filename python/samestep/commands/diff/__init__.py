"""``samestep diff``: where two runs part, as text, as one JSON object, as a page and as a figure."""

from .command import add_arguments, run
from .figure import save_diff_figure
from .page import write_page
from .text import diff_as_dict, diff_as_text

__all__ = ["add_arguments", "diff_as_dict", "diff_as_text", "run", "save_diff_figure", "write_page"]
