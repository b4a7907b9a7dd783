"""Exports PyTorch and TorchRec recommendation models as Terabag bundles."""

from .errors import ExportError
from .export import Exported, export
from .state_dict import export_state_dict

__all__ = ["ExportError", "Exported", "export", "export_state_dict"]
