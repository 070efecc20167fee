"""What a run found, for people and for programs: Markdown, JSON and one page of HTML.

`write_report` reads a run's folder, `write_comparison` two of them; `toyworld` holds the figures of
`editmgt evaluate`.
"""

from .comparison import write_comparison
from .writing import ReportOptions, write_report

__all__ = ["ReportOptions", "write_comparison", "write_report"]
