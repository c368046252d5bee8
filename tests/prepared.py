"""Small data sets as TensorFlow Datasets prepares them, written without TensorFlow."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image


def encoded(image: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    """A picture file of an array's values; `mode` is Pillow's, by default what the array's type and shape say."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image, mode).save(file, kind)
    return file.getvalue()


def write(
    data_dir: Path,
    splits: Mapping[str, Sequence[tuple[Any, int]]],
    image: Any = None,
    label: Any = None,
    name: str = "made_up",
) -> Path:
    """A data set of (image, label) by split in `data_dir`; `image` and `label` are its features.

    Images are as the feature stores them: encoded, or arrays where it is a `Tensor`.
    """
    features = tfds.features.FeaturesDict(
        {
            "image": image or tfds.features.Image(shape=(8, 8, 1)),
            "label": label or tfds.features.ClassLabel(num_classes=10),
        }
    )
    place = data_dir / name / "1.0.0"
    place.mkdir(parents=True)
    features.save_config(place)
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    described = []
    for split, records in splits.items():
        writer = ArrayRecordWriter(str(place / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for content, value in records:
            writer.write(serializer.serialize_example({"image": content, "label": value}))
        writer.close()
        described.append(
            {
                "name": split,
                "shardLengths": [str(len(records))],
                "numBytes": "1",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": described}
    (place / "dataset_info.json").write_text(json.dumps(info))
    return data_dir
