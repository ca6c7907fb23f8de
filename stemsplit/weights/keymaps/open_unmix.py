"""Open-Unmix's published names: the same as here, less the path to the stem's network."""

from __future__ import annotations

from stemsplit.weights.keymaps.keymap import Keymap, Row


def build_keymap(stem: str) -> Keymap:
    """Return the table for the `.pth` files of umx, umxhq and umxl: one stem each.

    Args:
        stem: The file's.
    """
    net = f"core.nets.{stem}"
    return Keymap(
        rows=(
            Row(r"((?:input|output)_(?:mean|scale))", rf"{net}.\1"),
            Row(r"(fc[123]\.weight)", rf"{net}.\1"),
            Row(r"(bn[123]\.(?:weight|bias|running_mean|running_var))", rf"{net}.\1"),
            Row(r"(lstm\.(?:weight|bias)_[ih]h_l\d+(?:_reverse)?)", rf"{net}.\1"),
        ),
        # The first release kept its STFT's window, and the second its rate, among the weights.
        drop=(r"bn[123]\.num_batches_tracked", r"(?:stft|transform)\..*", r"sample_rate"),
    )
