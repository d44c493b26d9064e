"""The `mlxfunc` command: look at saved models, export them, check exported files.

Exit status: 0 when all is well, 1 when a check did not hold, 2 for a call that makes no sense, a
file that cannot be read, and output that cannot be written.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from . import saving
from . import summary as summaries
from .model import Model

FAILED, USAGE = 1, 2

app = typer.Typer(
    help="mlxfunc: models on MLX, and their way to ONNX.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A model saved as .mlxfunc.")]
OnnxFile = Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Tolerance = Annotated[
    float | None,
    typer.Option(min=0, help="The largest error, absolute and relative, that passes."),
]


def _version(asked: bool) -> None:
    if asked:
        print(f"mlxfunc {metadata.version('mlxfunc')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def summary(
    model: ModelFile,
    expand_nested: Annotated[
        bool, typer.Option(help="Also list the layers inside models.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List a model's layers, shapes and weights."""
    loaded = _load(model, as_json)
    if as_json:
        _print_json(ok=True, **summaries.as_dict(loaded, expand_nested))
    else:
        loaded.summary(expand_nested=expand_nested)


@app.command()
def export(
    model: ModelFile,
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The file to write.")],
    opset: Annotated[int, typer.Option(help="The ONNX operator set.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare ONNX Runtime with MLX first.")
    ] = True,
    tolerance: Tolerance = None,
    as_json: Json = False,
) -> None:
    """Write a model to ONNX, once ONNX Runtime gives the same results as MLX."""
    loaded = _load(model, as_json)
    if not out.parent.is_dir():
        _stop(
            FileNotFoundError(f"expected a folder that exists, got {out.parent}."), USAGE, as_json
        )
    import mlx2onnx
    from mlx2onnx.files import save

    try:
        proto = mlx2onnx.to_onnx(loaded, opset=opset, verify=False)
        report = mlx2onnx.verify(loaded, proto, rtol=tolerance, atol=tolerance) if verify else None
        save(proto, out)
    except (mlx2onnx.VerificationError, NotImplementedError) as error:
        _stop(error, FAILED, as_json)
    except (ValueError, OSError) as error:
        _stop(error, USAGE, as_json)
    nodes, size = len(proto.graph.node), out.stat().st_size
    if as_json:
        _print_json(
            ok=True,
            path=str(out),
            nodes=nodes,
            bytes=size,
            verification=report and report.as_dict(),
        )
    else:
        print(f"{out}: {nodes} nodes, {summaries.size_text(size)}")
        print(report if report is not None else "not verified")


@app.command("verify")
def verify_(
    model: ModelFile, file: OnnxFile, tolerance: Tolerance = None, as_json: Json = False
) -> None:
    """Run an ONNX file and the model it came from on the same inputs, and compare."""
    loaded = _load(model, as_json)
    import mlx2onnx

    try:
        report = mlx2onnx.verify(loaded, file, rtol=tolerance, atol=tolerance)
    except mlx2onnx.VerificationError as error:
        _stop(error, FAILED, as_json, **error.report.as_dict())
    except (ValueError, OSError) as error:
        _stop(error, USAGE, as_json)
    if as_json:
        _print_json(**report.as_dict())
    else:
        print(report)


@app.command()
def inspect(file: OnnxFile, as_json: Json = False) -> None:
    """Tell what an ONNX file holds: inputs, outputs, operators, weights, metadata."""
    import mlx2onnx

    try:
        contents = mlx2onnx.inspect(file)
    except (ValueError, OSError) as error:
        _stop(error, USAGE, as_json)
    if as_json:
        _print_json(ok=True, **contents.as_dict())
    else:
        print(contents)


def _load(path: Path, as_json: bool) -> Model:
    try:
        return saving.load_model(path)
    except (OSError, ValueError) as error:
        _stop(error, USAGE, as_json)


def _print_json(**content: Any) -> None:
    print(json.dumps(content, indent=2))


def _stop(error: Exception, status: int, as_json: bool, **figures: Any) -> NoReturn:
    if as_json:
        _print_json(**{**figures, "ok": False, "error": str(error)})
    else:
        typer.echo(f"mlxfunc: {error}", err=True)
    raise typer.Exit(status)


def main() -> None:
    """The command's entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every output has every character
    status: Any = 0
    try:
        app()
    except SystemExit as end:
        status = end.code
    except OSError as error:
        status = _unwritten(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        status = _unwritten(error)
    # Python would flush once more, and say once more that it cannot.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _unwritten(error: OSError) -> int:
    with contextlib.suppress(OSError):
        print(f"mlxfunc: expected to write the output, got: {error}.", file=sys.stderr, flush=True)
    return USAGE


if __name__ == "__main__":
    main()
