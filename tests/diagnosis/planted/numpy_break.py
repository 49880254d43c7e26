"""NumPy that the compiler has no translation for."""

import numpy as np
import torch


def ordered(x):
    order = np.lexsort((x[0].numpy(),))  # mark
    return x[:, torch.from_numpy(order)].sin()
