"""What a live view wrote, read back as TensorBoard reads it."""

from pathlib import Path
from typing import Any


def events(directory: Path) -> dict[str, list[tuple[int, Any]]]:
    """{tag: [(step, value)]} of a directory's event files; a histogram's value is its message."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted(directory.glob("events*")):
        data = path.read_bytes()
        while data:  # length, its checksum, the record, its checksum
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(
                    (event.step, value.simple_value if value.HasField("simple_value") else value.histo)
                )
            data = data[12 + length + 4 :]
    return found
