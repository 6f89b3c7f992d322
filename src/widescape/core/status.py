"""How a computation ended: an enumeration of sentences."""

import enum
from typing import Any


class Status(enum.Enum):
    """Base of the outcomes of a measurement; the value of a member is a sentence for people.

    A measurement that can fail defines a subclass whose member ``OK`` is the good ending and whose
    other members name, one each, the ways in which it can go wrong. A member equals its own name in lower case.

    Example:
        >>> class Light(Status):
        ...     OK = "The light is on."
        >>> Light.OK == "ok", Light.OK == "off"
        (True, False)
    """

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return other == self.name.lower()
        return self is other if isinstance(other, Status) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.name.lower())

    @property
    def ok(self) -> bool:
        """Whether this is the good ending."""
        return self.name == "OK"

    def to_dict(self) -> dict[str, Any]:
        """Name and sentence."""
        return {"status": self.name, "sentence": self.value}

    def __str__(self) -> str:
        return self.value
