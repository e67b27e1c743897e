"""The decoders by their names: a JSON text becomes a tree, or a value of a type.

"stdlib" is `json.loads`. "msgspec" and "orjson" are those packages, strict as they are. "auto" gives
what `json.loads` gives, to the last bit: msgspec decodes, and what it refuses goes to `json.loads`.
This module knows what each of them raises; it does not know where texts come from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, final

from ._errors import JsonError
from ._json_place import Text, loads, refused

DecoderName: TypeAlias = Literal["auto", "stdlib", "msgspec", "orjson"]

DECODERS: Final = ("auto", "stdlib", "msgspec", "orjson")
_KEPT_TYPES: Final = 64
_AT: Final = " - at `"


def import_msgspec() -> Any:
    """Return the package. Raises `ImportError` that says how to get it."""
    try:
        import msgspec
    except ImportError:
        raise ImportError("open_json_pool needs msgspec: pip install 'trio-isolates[json]'") from None
    return msgspec


def import_orjson() -> Any:
    """Return the package. Raises `ImportError` that says how to get it."""
    try:
        import orjson
    except ImportError:
        raise ImportError("decoder='orjson' needs orjson: pip install orjson") from None
    return orjson


@final
class Decoder:
    """One of the decoders, ready to decode."""

    def __init__(self, name: DecoderName) -> None:
        self.name: DecoderName = name
        self._msgspec = import_msgspec()
        fast: Callable[[Any], Any] | None = None
        if name == "orjson":
            fast = import_orjson().loads
        elif name != "stdlib":
            fast = self._msgspec.json.Decoder().decode
        self._fast = fast

    @property
    def title(self) -> str:
        """What it is called in statistics."""
        return "msgspec, else stdlib" if self.name == "auto" else self.name

    def decode(self, text: Text, source: str) -> Any:
        """Return the tree. Raises `JsonError`, or `MemoryError`."""
        if self._fast is None:
            return loads(text, source)
        try:
            return self._fast(text)
        except MemoryError:
            raise
        except Exception as refusal:
            if self.name != "auto":
                raise refused(text, source, self.name, refusal) from None
        return loads(text, source)

    def decode_as(self, cls: Any, text: Text, source: str) -> Any:
        """Return a value of that type. Raises `JsonError`, and what the type's own code raises."""
        if self.name in ("auto", "msgspec"):
            try:
                return self.typed(cls)(text)
            except self._msgspec.ValidationError as exc:
                if self.name == "msgspec":
                    self.decode(text, source)
                    raise _invalid(exc, source) from exc.__cause__
            except (self._msgspec.MsgspecError, UnicodeError, RecursionError):
                pass  # it has a place, or is one of those texts that only the standard library takes
        tree = self.decode(text, source)
        try:
            return self._msgspec.convert(tree, cls, str_keys=True)
        except self._msgspec.ValidationError as exc:
            raise _invalid(exc, source) from exc.__cause__

    def typed(self, cls: Any) -> Callable[[Any], Any]:
        """Return what decodes to that type, and raises msgspec's own errors. Raises `TypeError`."""
        return _typed(cls)

    def plain(self) -> Callable[[Any], Any] | None:
        """Return what decodes to a tree at once, and raises its own errors, if there is such a thing."""
        return self._fast


@lru_cache(_KEPT_TYPES)
def _typed(cls: Any) -> Callable[[Any], Any]:
    decode: Callable[[Any], Any] = import_msgspec().json.Decoder(cls).decode
    return decode


def check_type(cls: Any) -> None:
    """Raise `TypeError` unless documents can be validated against it."""
    try:
        _typed(cls)
    except TypeError as exc:
        raise TypeError(f"type={cls!r} cannot be decoded to: {exc}") from None


def _invalid(exc: Exception, source: str) -> JsonError:
    reason, at, path = str(exc).partition(_AT)
    return JsonError(reason.replace("`", ""), source, path=path.rstrip("`") if at else "$")
