"""Files as accidents and attackers leave them: a random change of bytes, of JSON, of protobufs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

DEEP = "a list 100,000 deep"
STRANGE = [
    *(None, True, "", "relu", "Dense", "Sequential", "x" * 300, [], {}, [None], {"shared": 0}),
    *(0, 1, -1, 2, 7, 10**5, 10**9, 2**31, 2**33, 10**12, 10**30, 0.5, -1e308, float("nan")),
    *([10**9, 10**9], [[]], {"class_name": "Dense"}, {"class_name": "Model", "config": {}}, DEEP),
    *({"class_name": "relu", "config": {}}, {"dict": 3}, {"call": [99, 0]}, {"input": 0}),
]


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    found, rest = [], [tree]
    while rest:
        value = rest.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value))
        found += [(value, key) for key in keys]
        rest += [value[key] for key in keys if isinstance(value[key], dict | list)]
    return found


def change_tree(rng: Random, tree: Any) -> None:
    """One entry gets another value, another name, another's value, or goes."""
    spots = places(tree)
    if not spots:
        return
    container, key = rng.choice(spots)
    way = rng.choice(["strange", "strange", "strange", "scale", "swap", "drop", "rename", "twice"])
    if way == "scale" and type(container[key]) in (int, float):
        container[key] = container[key] * rng.choice([-1, 0, 2, 3, 10**6, 10**10]) + 1
    elif way == "swap":
        other, name = rng.choice(spots)
        container[key] = json.loads(json.dumps(other[name]))
    elif way == "drop":
        del container[key]
    elif way == "rename" and isinstance(container, dict):
        container[rng.choice(["x", "", "config", f"{key}_"])] = container.pop(key)
    elif way == "twice" and isinstance(container, list):
        container.insert(key, container[key])
    else:
        container[key] = rng.choice(STRANGE)


def change_json(rng: Random, text: bytes) -> bytes:
    """JSON with one to three entries changed."""
    tree = json.loads(text)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change_tree(rng, tree)
    return json.dumps(tree).replace(json.dumps(DEEP), "[" * 10**5 + "]" * 10**5).encode()


def change_bytes(rng: Random, content: bytes) -> bytes:
    """Bits flip, a part is lost, doubled or blank, or something else follows."""
    data = bytearray(content)
    way = rng.choice(["flip", "flip", "flip", "cut", "lose", "blank", "double", "append"])
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    if way == "flip":
        # As often in the first bytes and the last ones, where sizes stand, as between.
        end = rng.choice([64, len(data)])
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.choice([1, -1]) * rng.randrange(min(end, len(data)))] ^= 1 << rng.randrange(8)
    elif way == "cut":
        del data[first:]
    elif way == "lose":
        del data[first:last]
    elif way == "blank":
        data[first:last] = bytes(last - first)
    elif way == "double":
        data[first:first] = data[first:last]
    else:
        data += rng.randbytes(rng.choice([1, 100, 10_000]))
    return bytes(data)


def change_safetensors(rng: Random, content: bytes) -> bytes:
    """A header that tells another story of the same bytes, or changed bytes."""
    if rng.random() < 0.3:
        return change_bytes(rng, content)
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size]
    metadata = json.loads(header).get("__metadata__")
    if metadata and rng.random() < 0.5:
        changed = {key: change_json(rng, text.encode()).decode() for key, text in metadata.items()}
        header = json.dumps(json.loads(header) | {"__metadata__": changed}).encode()
    else:
        header = change_json(rng, header)
    told = len(header) if rng.random() < 0.9 else rng.choice([0, size, 2**31, 2**62, 2**64 - 1])
    return told.to_bytes(8, "little") + header + content[8 + size :]


def change_npz(rng: Random, content: bytes) -> bytes:
    """The headers of arrays, which are Python's text, or bytes."""
    if rng.random() < 0.3:
        return change_bytes(rng, content)

    def change(_: Random, member: bytes) -> bytes:
        old, new = rng.choice(
            [
                (b"'<f4'", b"'|O'"), (b"'<f4'", b"'<f8'"), (b"'<f4'", b"'<U9'"),
                (b"(", b"(9999999999, "), (b"(", b"(-1, "), (b"False", b"True"), (b"{", b"[" * 99),
            ]
        )  # fmt: skip
        return member.replace(old, new) if rng.random() < 0.7 else change_bytes(rng, member)

    return change_zip(rng, content, lambda name: change)


def change_zip(
    rng: Random, content: bytes, change: Callable[[str], Callable[[Random, bytes], bytes]]
) -> bytes:
    """One member changed, lost, compressed, doubled or followed by a bomb; or changed bytes."""
    way = rng.choice(["bytes", *["member"] * 7, "drop", "deflate", "bomb", "twice"])
    if way == "bytes":
        return change_bytes(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if not members:
        return change_bytes(rng, content)
    chosen = rng.choice(sorted(members))
    if way == "member":
        members[chosen] = change(chosen)(rng, members[chosen])
    elif way == "drop":
        del members[chosen]
    elif way == "bomb":
        chosen = rng.choice([chosen, "unknown.bin"])
        members[chosen] = bytes(rng.choice([2**20, 2**28]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in members.items():
            deflated = way in ("deflate", "bomb") and name == chosen
            kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
            archive.writestr(name, member, kind)
        if way == "twice":
            archive.writestr(chosen, change(chosen)(rng, members[chosen]))
    return buffer.getvalue()


def change_archive(rng: Random, content: bytes) -> bytes:
    """The configuration, or arrays, of an archive."""
    return change_zip(
        rng, content, lambda name: change_json if name.endswith(".json") else change_safetensors
    )


def fields(message: Any) -> list[tuple[Any, Any, Any]]:
    """(message, field, place in it or None) of every value in a protobuf, however deep."""
    found, rest = [], [message]
    while rest:
        value = rest.pop()
        for field, content in value.ListFields():
            several = hasattr(content, "append") or hasattr(content, "add")
            entries = list(content) if several else [content]
            found += [(value, field, k if several else None) for k in range(len(entries))]
            rest += [entry for entry in entries if hasattr(entry, "ListFields")]
    return found


def change_message(rng: Random, message: Any) -> None:
    """One field of a protobuf, or of a message in it, gets another value, another's, or goes."""
    parent, field, place = rng.choice(fields(message))
    several = getattr(parent, field.name)
    way = rng.choice(["value", "value", "value", "drop", "twice"])
    if way == "drop":
        parent.ClearField(field.name) if place is None else several.__delitem__(place)
    elif place is not None and way == "twice":
        several.extend([several[place]])
    elif field.message_type is None:
        old = several if place is None else several[place]
        new = _other_value(rng, old, message)
        try:
            setattr(parent, field.name, new) if place is None else several.__setitem__(place, new)
        except (ValueError, TypeError):
            parent.ClearField(field.name)  # no such value in this field


def _other_value(rng: Random, old: Any, message: Any) -> Any:
    if isinstance(old, str):
        names = [node.name for node in message.graph.node] + [
            name for node in message.graph.node for name in [*node.input, *node.output]
        ]
        kinds = ["Reshape", "Tile", "Expand", "Loop", "MatMul", "ConstantOfShape", "NoSuch", "Pad"]
        return rng.choice([*names, *kinds, "", "batch", "../../etc/passwd", "x" * 300])
    if isinstance(old, bytes):
        return change_bytes(rng, old)
    return type(old)(rng.choice([0, 1, -1, 2, 3, 7, 10**5, 10**9, 2**31 - 1, 2**40, old * 2]))


def change_onnx(rng: Random, content: bytes) -> bytes:
    """One to three fields of a model, or bytes."""
    import onnx

    if rng.random() < 0.25:
        return change_bytes(rng, content)
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change_message(rng, model)
    if rng.random() < 0.03:
        return _nested(model.SerializeToString(), rng.choice([50, 5000]))
    return model.SerializeToString()


def _nested(content: bytes, depth: int) -> bytes:
    """The model with a node that has a graph with a node that has a graph, and so on."""
    inner = b""
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # AttributeProto.g, NodeProto.attribute, Graph.node
            inner = tag + _varint(len(inner)) + inner
    return content + b"\x3a" + _varint(len(inner)) + inner  # ModelProto.graph, which merges


def _varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])
