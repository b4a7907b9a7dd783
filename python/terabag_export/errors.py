"""What this package raises."""

from __future__ import annotations


class ExportError(ValueError):
    """What cannot be exported; `field` names the field of the spec, the path of the module, or the file."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class UnknownOperation(Exception):
    """The first operation of the dense part that is none of Terabag's layers; the dense part becomes ONNX, or the export fails."""

    def __init__(self, operation: str, path: str, why: str) -> None:
        where = f" in {path}" if path else ""
        super().__init__(f"{operation}{where}: {why}")
        self.operation = operation
        self.path = path
