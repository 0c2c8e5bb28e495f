"""Reading, checking, splitting and writing what people said. Starts without torch."""

from prefloop.data.check import Report, check
from prefloop.data.detect import describe_formats, detect_format
from prefloop.data.formats import FORMATS, FormatName, Record
from prefloop.data.hashing import content_hash
from prefloop.data.layouts import LAYOUTS
from prefloop.data.load import (
    HowLoaded,
    HowRead,
    Loaded,
    LoadSummary,
    each_record,
    how,
    load_comparisons,
    load_demonstrations,
    load_labels,
    load_prompts,
    load_rankings,
    load_records,
    load_scores,
    load_steps,
    load_texts,
    prompt_of,
)
from prefloop.data.read import check_split, has_splits, read_rows
from prefloop.data.row_images import Images
from prefloop.data.rows import BadRow, Row
from prefloop.data.split import part_of, split
from prefloop.data.write import Written, write_jsonl

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "BadRow",
    "FormatName",
    "HowLoaded",
    "HowRead",
    "Images",
    "LoadSummary",
    "Loaded",
    "Record",
    "Report",
    "Row",
    "Written",
    "check",
    "check_split",
    "content_hash",
    "describe_formats",
    "detect_format",
    "each_record",
    "has_splits",
    "how",
    "load_comparisons",
    "load_demonstrations",
    "load_labels",
    "load_prompts",
    "load_rankings",
    "load_records",
    "load_scores",
    "load_steps",
    "load_texts",
    "part_of",
    "prompt_of",
    "read_rows",
    "split",
    "write_jsonl",
]
