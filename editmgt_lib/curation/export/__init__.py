"""From a curated folder to a data set: parquet files, a data card, and pages to look at."""

from .run import Exported, ExportOptions, export

__all__ = ["ExportOptions", "Exported", "export"]
