"""The command terabag-export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .errors import ExportError
from .state_dict import export_state_dict, load_spec, load_state_dict


def main() -> int:
    """Exports a state dict by a spec."""
    parser = argparse.ArgumentParser(
        prog="terabag-export",
        description="Export a state dict of PyTorch as a terabag bundle. A model that can be run is exported by terabag_export.export instead.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  terabag-export --state-dict model.pt --spec spec.json --output model
  terabag-export --state-dict model.safetensors --spec spec.json --output model

The spec is model.json without files, and without file, rows and dim of each table.""",
    )
    parser.add_argument("--state-dict", type=Path, required=True, metavar="FILE", help="model.pt (torch.save) or model.safetensors")
    parser.add_argument("--spec", type=Path, required=True, metavar="FILE", help="tables, nets and output of the model, as JSON")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory of the bundle")
    arguments = parser.parse_args()
    try:
        model = export_state_dict(arguments.output, load_spec(arguments.spec), load_state_dict(arguments.state_dict))
    except (ExportError, OSError) as error:
        print(f"terabag-export: {error}", file=sys.stderr)
        return 1
    total = sum(file["bytes"] for file in model["files"].values())
    print(f"{model['name']} {model['version']}: {len(model['tables'])} tables, {total} bytes in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
