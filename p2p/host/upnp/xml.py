"""XML of a stranger, read into a small tree: no document type, no entities, no namespaces, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from p2p.host.upnp.fault import GatewayFault

MAX_BYTES: Final = 65_536
"""A description of a router has about 5 KiB."""
MAX_ELEMENTS: Final = 1_000
MAX_DEPTH: Final = 24
MAX_TEXT: Final = 1_024


@dataclass(slots=True)
class Element:
    """name: without its namespace; text: before the first child."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def value(self, name: str) -> str:
        """The text of the first child of that name; empty without one."""
        return next((child.text.strip() for child in self.children if child.name == name), "")

    def all(self, name: str) -> Iterator[Element]:
        """Itself and what lies in it, in the document's order, where that is the name."""
        if self.name == name:
            yield self
        for child in self.children:
            yield from child.all(name)


def read(document: bytes) -> Element:
    """Return the root. Raises GatewayFault."""
    if len(document) > MAX_BYTES:
        raise GatewayFault("The gateway's document is too long.")
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(document, True)
    except (
        expat.ExpatError,
        ValueError,
        LookupError,
    ) as error:  # the last two: an encoding that nobody knows
        raise GatewayFault(f"The gateway's document is not XML: {error}.") from error
    return reader.top.children[0]


class _Reader:
    def __init__(self) -> None:
        self.top = Element("")
        self._open = [self.top]
        self._count = 0

    def doctype(self, *_: object) -> None:
        """Entities are declared there, and nothing that a gateway says needs them."""
        raise GatewayFault("The gateway's document declares a document type.")

    def begin(self, name: str, _: object) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) > MAX_DEPTH:
            raise GatewayFault("The gateway's document has too many elements.")
        element = Element(name.rpartition(" ")[2])
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, _: str) -> None:
        self._open.pop()

    def text(self, data: str) -> None:
        element = self._open[-1]
        if element.children:
            return
        if len(element.text) + len(data) > MAX_TEXT:
            raise GatewayFault("A text of the gateway's document is too long.")
        element.text += data
