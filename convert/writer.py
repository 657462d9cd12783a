"""For callers that name plan, header and target by their old home."""

from convert.header import header_bytes, write_header
from convert.plan import ALIGNMENT, ROPE_FACTORS, PlannedTensor, plan
from convert.target import check_space, check_target, whole_file

__all__ = [
    "ALIGNMENT", "ROPE_FACTORS", "PlannedTensor", "check_space", "check_target", "header_bytes",
    "plan", "whole_file", "write_header",
]  # fmt: skip
