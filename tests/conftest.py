"""One Hypothesis profile (no wall-clock deadlines, same examples every run), one thread."""

import torch
from hypothesis import settings

settings.register_profile("lab", deadline=None, derandomize=True, database=None)
settings.load_profile("lab")
torch.set_num_threads(1)
