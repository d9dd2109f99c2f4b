# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""The private descriptor pool, and names resolved from it on first use.

Knows: how to read `descriptors.bin` and how to turn a descriptor into a class. Never knows: which messages there are.
Loading the descriptors takes about 2 ms; making all the classes would take 9 ms more, so each is made when asked for.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping

    from google.protobuf.descriptor import FileDescriptor
    from google.protobuf.message import Message

_DESCRIPTORS = Path(__file__).with_name("descriptors.bin")


def _serialized_files(data: bytes) -> Iterator[bytes]:
    """Split a serialized FileDescriptorSet (`repeated FileDescriptorProto file = 1`) into its files.

    Done by hand because the class for it, and with it `descriptor_pb2`, would be needed for nothing else.
    """
    at = 0
    while at < len(data):
        if data[at] != 0x0A:  # field 1, length-delimited
            raise ValueError(f"{_DESCRIPTORS.name}: not a FileDescriptorSet")
        at, size, shift = at + 1, 0, 0
        while True:
            size |= (data[at] & 0x7F) << shift
            at, shift, more = at + 1, shift + 7, data[at] & 0x80
            if not more:
                break
        yield data[at : at + size]
        at += size


pool = DescriptorPool()
files: tuple[FileDescriptor, ...] = tuple(
    pool.AddSerializedFile(serialized) for serialized in _serialized_files(_DESCRIPTORS.read_bytes())
)
"""Every file of the pool, each after those it imports."""


def message_class(full_name: str) -> type[Message]:
    """The class of a message by its full name, e.g. `dapr.proto.runtime.v1.GetStateRequest`.

    Raises `KeyError` when the pool knows no such message.
    """
    return GetMessageClass(pool.FindMessageTypeByName(full_name))


@cache
def _names(package: str) -> dict[str, Callable[[], object]]:
    """What the package's module exports: messages, enums, and the values of enums outside messages."""
    names: dict[str, Callable[[], object]] = {}
    for file in files:
        if file.package != package:
            continue
        for name, message in file.message_types_by_name.items():
            names[name] = partial(GetMessageClass, message)
        for name, enum in file.enum_types_by_name.items():
            names[name] = partial(EnumTypeWrapper, enum)
            for value in enum.values:
                names[value.name] = partial(int, value.number)
    return names


def exports(
    package: str, namespace: MutableMapping[str, object]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` (PEP 562) of the module for a package; what was found stays in `namespace`."""

    def resolve(name: str) -> object:
        found = None if name.startswith("_") else _names(package).get(name)
        if found is None:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        value = namespace[name] = found()
        return value

    def listing() -> list[str]:
        return sorted({*namespace, *_names(package)})

    return resolve, listing
