"""One Hypothesis profile (no wall-clock deadlines, same examples every run), one thread."""

import os
import sys
import tempfile

import pytest
import torch
from hypothesis import settings

settings.register_profile("lab", deadline=None, derandomize=True, database=None)
settings.load_profile("lab")
torch.set_num_threads(1)
# Logs are signed with keys of their own here, and nobody's own are touched.
os.environ["DAI_LAB_KEYS"] = tempfile.mkdtemp(prefix="dai-lab-keys-")


@pytest.fixture
def lines_run():
    """Count the lines of Python a call runs: what it costs, the same on a busy machine."""

    def count(call):
        lines = 0

        def follow(frame, event, argument):
            nonlocal lines
            lines += event == "line"
            return follow

        before = sys.gettrace()
        sys.settrace(follow)
        try:
            call()
        finally:
            sys.settrace(before)
        return lines

    return count
