#!/bin/bash
# pyarrow 26.0.1 (with numpy 2.4.6): FixedShapeTensorArray.from_numpy_ndarray stores an array of images in a column of a
# table. Its documentation says that it copies arrays that are not contiguous. We expected that to_numpy_ndarray returns
# the images that were stored. But if they were mirrored from left to right (images[:, :, ::-1] in N, H, W, C), they
# come back with the same shape and type, and nearly all pixels are at other places. The same happens if they were
# turned by 180 degrees. pyarrow sorts the axes by their strides, and a mirrored axis has a negative stride, so it
# becomes the last one. Images mirrored from top to bottom come back as N, C, H, W. Those whose channels were moved from
# the front to the back come back as N, H, C, W. No order of the axes restores either of them. A Parquet file keeps the
# scrambled images. Crops, swapped rows and columns, and channels in reverse order come back as they were. There is no
# error and no warning. Mirrored copies are common in training and in votes over copies. Here they are noise. To avoid
# it, call numpy.ascontiguousarray first.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --without-pip "$folder/venv"
python3 -m pip --python "$folder/venv" install --quiet --no-compile --disable-pip-version-check \
    pyarrow==26.0.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from itertools import permutations

import numpy as np
import pyarrow
import pyarrow.parquet as parquet

path = sys.argv[1] + "/images.parquet"
images = np.random.default_rng(0).integers(256, size=(6, 32, 32, 3), dtype=np.uint8)  # N, H, W, C
channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
views = {
    "as they are": images,
    "mirrored from left to right": images[:, :, ::-1],
    "turned by 180 degrees": images[:, ::-1, ::-1],
    "mirrored from top to bottom": images[:, ::-1],
    "channels moved to the back": channels_first.transpose(0, 2, 3, 1),
    "cropped": images[:, 4:28, 4:28],
    "rows and columns swapped": images.transpose(0, 2, 1, 3),
    "channels in reverse order": images[..., ::-1],
    "mirrored, made contiguous": np.ascontiguousarray(images[:, :, ::-1]),
}
print(f"pyarrow {pyarrow.__version__}, numpy {np.__version__}")
same = {}
for name, array in views.items():
    column = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(array)
    parquet.write_table(pyarrow.table({"images": column}), path)
    read = parquet.read_table(path)["images"].combine_chunks().to_numpy_ndarray()
    back = column.to_numpy_ndarray()
    orders = [back.transpose(0, *order) for order in permutations((1, 2, 3))]
    same[name] = [np.array_equal(back, array), any(np.array_equal(other, array) for other in orders)]
    if not np.array_equal(back, read):
        sys.exit("the behaviour has changed")
    share = f"{(back == array).mean():.1%} right" if back.shape == array.shape else "another shape"
    print(f"  {name}: {array.shape} {array.dtype} comes back as {back.shape} {back.dtype}, {share}")
scrambled = {"mirrored from left to right", "turned by 180 degrees", "mirrored from top to bottom"}
scrambled |= {"channels moved to the back"}
if any(found != [name not in scrambled] * 2 for name, found in same.items()):
    sys.exit("the behaviour has changed")
PYTHON
